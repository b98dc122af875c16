"""All rules, in the order in which they are tried. A rule exists when it stands here."""

from __future__ import annotations

from halo_sql.ir.logical import (
    AgentApply,
    CteScan,
    Demand,
    Filter,
    Fragment,
    Join,
    Limit,
    LlmFilter,
    LlmMap,
    LlmReduce,
    LlmTopK,
    Project,
    Sink,
    Sort,
    ToolApply,
)
from halo_sql.optimizer.nodes import RELATIONAL
from halo_sql.optimizer.properties import Form
from halo_sql.optimizer.rules.enforce.duck_fragment import duck_fragment
from halo_sql.optimizer.rules.enforce.fragment_input import fragment_input
from halo_sql.optimizer.rules.enforce.prefix_cluster import prefix_cluster
from halo_sql.optimizer.rules.enforce.restore_order import restore_order
from halo_sql.optimizer.rules.explore.fuse_llm_maps import fuse_llm_maps
from halo_sql.optimizer.rules.explore.llm_below_join import llm_below_join
from halo_sql.optimizer.rules.explore.llm_filter_past_filter import llm_filter_past_filter
from halo_sql.optimizer.rules.explore.llm_filter_past_llm_map import llm_filter_past_llm_map
from halo_sql.optimizer.rules.explore.llm_map_past_llm_filter import llm_map_past_llm_filter
from halo_sql.optimizer.rules.explore.llm_past_join import llm_past_join
from halo_sql.optimizer.rules.explore.order_llm_filters import order_llm_filters
from halo_sql.optimizer.rules.explore.order_map_filters import order_map_filters
from halo_sql.optimizer.rules.explore.partners_before_llm import partners_before_llm
from halo_sql.optimizer.rules.explore.sort_past_llm_filter import sort_past_llm_filter
from halo_sql.optimizer.rules.implement.agent_apply import agent_apply
from halo_sql.optimizer.rules.implement.classify_join import classify_join
from halo_sql.optimizer.rules.implement.cte_scan import cte_scan
from halo_sql.optimizer.rules.implement.demand import demand
from halo_sql.optimizer.rules.implement.limit import limit
from halo_sql.optimizer.rules.implement.llm_filter import llm_filter
from halo_sql.optimizer.rules.implement.llm_filter_cascade import llm_filter_cascade
from halo_sql.optimizer.rules.implement.llm_map import llm_map
from halo_sql.optimizer.rules.implement.llm_reduce_one_shot import llm_reduce_one_shot
from halo_sql.optimizer.rules.implement.llm_reduce_tree_fold import llm_reduce_tree_fold
from halo_sql.optimizer.rules.implement.llm_top_k_score import llm_top_k_score
from halo_sql.optimizer.rules.implement.llm_top_k_tournament import llm_top_k_tournament
from halo_sql.optimizer.rules.implement.relational_run import relational_run
from halo_sql.optimizer.rules.implement.select import select
from halo_sql.optimizer.rules.implement.sink import sink
from halo_sql.optimizer.rules.implement.tool_apply import tool_apply
from halo_sql.optimizer.rules.normalize.distinct_before_llm import distinct_before_llm
from halo_sql.optimizer.rules.normalize.drop_unused_calls import drop_unused_calls
from halo_sql.optimizer.rules.normalize.filter_into_join import filter_into_join
from halo_sql.optimizer.rules.normalize.fold_constant_prompts import fold_constant_prompts
from halo_sql.optimizer.rules.normalize.inline_single_cte import inline_single_cte
from halo_sql.optimizer.rules.normalize.lift_llm_above_fragment import lift_llm_above_fragment
from halo_sql.optimizer.rules.normalize.lift_pick_above_llm import lift_pick_above_llm
from halo_sql.optimizer.rules.normalize.lift_project_above_join import lift_project_above_join
from halo_sql.optimizer.rules.normalize.merge_equal_calls import merge_equal_calls
from halo_sql.optimizer.rules.normalize.merge_llm_maps import merge_llm_maps
from halo_sql.optimizer.rules.normalize.merge_projects import merge_projects
from halo_sql.optimizer.rules.normalize.narrow_inputs import narrow_inputs
from halo_sql.optimizer.rules.normalize.order_object_fields import order_object_fields
from halo_sql.optimizer.rules.normalize.prune_columns import prune_columns
from halo_sql.optimizer.rules.normalize.push_filter_below_llm import push_filter_below_llm
from halo_sql.optimizer.rules.normalize.push_filter_into_arms import push_filter_into_arms
from halo_sql.optimizer.rules.normalize.push_join_condition_below_llm import push_join_condition_below_llm
from halo_sql.optimizer.rules.normalize.push_limit_below_llm import push_limit_below_llm
from halo_sql.optimizer.rules.normalize.push_project_below_llm import push_project_below_llm
from halo_sql.optimizer.rules.normalize.sort_below_llm import sort_below_llm
from halo_sql.optimizer.rules.normalize.top_k_below_llm import top_k_below_llm
from halo_sql.optimizer.rules.rule import Rule, Stage

_ROWS = (Form.ROWS,)
_LLM = (Form.ROWS, Form.LLM)

RULES: tuple[Rule, ...] = (
    Rule("inline_single_cte", Stage.NORMALIZE, 0, inline_single_cte, on=(CteScan,)),
    Rule("merge_projects", Stage.NORMALIZE, 0, merge_projects, on=(Project,)),
    Rule("fold_constant_prompts", Stage.NORMALIZE, 0, fold_constant_prompts, on=(LlmMap, LlmFilter, LlmTopK)),
    Rule("push_filter_below_llm", Stage.NORMALIZE, 0, push_filter_below_llm, on=(Filter,), top_down=True),
    Rule("push_filter_into_arms", Stage.NORMALIZE, 0, push_filter_into_arms, on=(Filter,)),
    Rule("lift_llm_above_fragment", Stage.NORMALIZE, 0, lift_llm_above_fragment, on=(Fragment,)),
    Rule("filter_into_join", Stage.NORMALIZE, 0, filter_into_join, on=(Filter,)),
    Rule("push_join_condition_below_llm", Stage.NORMALIZE, 0, push_join_condition_below_llm, on=(Join,)),
    Rule("sort_below_llm", Stage.NORMALIZE, 0, sort_below_llm, on=(Sort,)),
    Rule("push_limit_below_llm", Stage.NORMALIZE, 0, push_limit_below_llm, on=(Limit,)),
    Rule("top_k_below_llm", Stage.NORMALIZE, 0, top_k_below_llm, on=(LlmTopK,)),
    Rule("lift_pick_above_llm", Stage.NORMALIZE, 0, lift_pick_above_llm, on=(LlmMap, LlmFilter, Filter)),
    Rule("lift_project_above_join", Stage.NORMALIZE, 0, lift_project_above_join, on=(Join,)),
    Rule("merge_equal_calls", Stage.NORMALIZE, 0, merge_equal_calls, on=(LlmMap, LlmFilter)),
    Rule("merge_llm_maps", Stage.NORMALIZE, 0, merge_llm_maps, on=(LlmMap,)),
    Rule("distinct_before_llm", Stage.NORMALIZE, 0, distinct_before_llm, on=(LlmMap, LlmFilter)),
    Rule("push_project_below_llm", Stage.NORMALIZE, 10, push_project_below_llm, plan_wide=True),
    Rule("prune_columns", Stage.NORMALIZE, 0, prune_columns, plan_wide=True),
    Rule("drop_unused_calls", Stage.NORMALIZE, 0, drop_unused_calls, plan_wide=True),
    Rule("narrow_inputs", Stage.FINISH, 0, narrow_inputs, plan_wide=True),
    Rule("order_object_fields", Stage.FINISH, 0, order_object_fields, plan_wide=True),
    Rule("order_llm_filters", Stage.EXPLORE, 30, order_llm_filters, on=(LlmFilter,)),
    Rule("llm_filter_past_llm_map", Stage.EXPLORE, 20, llm_filter_past_llm_map, on=(LlmFilter,)),
    Rule("llm_filter_past_filter", Stage.EXPLORE, 10, llm_filter_past_filter, on=(LlmFilter,)),
    Rule("llm_map_past_llm_filter", Stage.EXPLORE, 10, llm_map_past_llm_filter, on=(Filter,)),
    Rule("order_map_filters", Stage.EXPLORE, 10, order_map_filters, on=(Filter,)),
    Rule("llm_past_join", Stage.EXPLORE, 10, llm_past_join, on=(Join,)),
    Rule("llm_below_join", Stage.EXPLORE, 10, llm_below_join, on=(LlmMap, LlmFilter)),
    Rule("partners_before_llm", Stage.EXPLORE, 10, partners_before_llm, on=(Join,)),
    Rule("fuse_llm_maps", Stage.EXPLORE, 10, fuse_llm_maps, on=(LlmMap,)),
    Rule("sort_past_llm_filter", Stage.EXPLORE, 10, sort_past_llm_filter, on=(Sort,)),
    Rule("llm_map", Stage.IMPLEMENT, 50, llm_map, on=(LlmMap,), forms=_LLM, essential=True),
    Rule("tool_apply", Stage.IMPLEMENT, 50, tool_apply, on=(ToolApply,), forms=_LLM, essential=True),
    Rule("agent_apply", Stage.IMPLEMENT, 50, agent_apply, on=(AgentApply,), forms=_LLM, essential=True),
    Rule("llm_filter", Stage.IMPLEMENT, 50, llm_filter, on=(LlmFilter,), forms=_LLM, essential=True),
    Rule("llm_filter_cascade", Stage.IMPLEMENT, 40, llm_filter_cascade, on=(LlmFilter,), forms=_ROWS),
    Rule("classify_join", Stage.IMPLEMENT, 40, classify_join, on=(LlmFilter,), forms=_ROWS),
    Rule("llm_reduce_one_shot", Stage.IMPLEMENT, 50, llm_reduce_one_shot, on=(LlmReduce,), forms=_ROWS, essential=True),
    Rule(
        "llm_reduce_tree_fold", Stage.IMPLEMENT, 50, llm_reduce_tree_fold, on=(LlmReduce,), forms=_ROWS, essential=True
    ),
    Rule("llm_top_k_score", Stage.IMPLEMENT, 50, llm_top_k_score, on=(LlmTopK,), forms=_ROWS, essential=True),
    Rule("llm_top_k_tournament", Stage.IMPLEMENT, 50, llm_top_k_tournament, on=(LlmTopK,), forms=_ROWS, essential=True),
    Rule("demand", Stage.IMPLEMENT, 50, demand, on=(Demand,), forms=_ROWS, essential=True),
    Rule("limit", Stage.IMPLEMENT, 40, limit, on=(Limit,), forms=_ROWS, essential=True),
    Rule("select", Stage.IMPLEMENT, 40, select, on=(Project,), forms=_ROWS),
    Rule("cte_scan", Stage.IMPLEMENT, 40, cte_scan, on=(CteScan,), forms=_ROWS, essential=True),
    Rule("sink", Stage.IMPLEMENT, 40, sink, on=(Sink,), forms=_ROWS, essential=True),
    Rule("relational_run", Stage.IMPLEMENT, 30, relational_run, on=RELATIONAL, forms=(Form.RUN,), essential=True),
    Rule("fragment_input", Stage.ENFORCE, 30, fragment_input, forms=(Form.SOURCE,), essential=True),
    Rule("duck_fragment", Stage.ENFORCE, 20, duck_fragment, forms=_ROWS, essential=True),
    Rule("restore_order", Stage.ENFORCE, 10, restore_order, forms=_ROWS),
    Rule("prefix_cluster", Stage.ENFORCE, 10, prefix_cluster, forms=_ROWS),
)
