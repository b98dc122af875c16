"""Tools: how one call of a TOOL is made, and everything between the call and its tool."""
