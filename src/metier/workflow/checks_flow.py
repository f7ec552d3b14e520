"""The checks of agents, waiting, events, calls and triggers: the names they use, and what goes in and out of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from metier.calls import JSON
from metier.workflow.bundle import OFFERED, called_path
from metier.workflow.cel import expressions_in, parse, pieces
from metier.workflow.checks import Report, check_given
from metier.workflow.inference import give
from metier.workflow.nulls import allows_null, of_element, shaped, without_null
from metier.workflow.schema_types import of_value, types_of, words
from metier.workflow.shape import Mark, Step, Trigger, Workflow
from metier.workflow.view import Schema, View
from metier.workflow.yaml_source import suggest

__all__ = [
    "check_agent",
    "check_called",
    "check_model",
    "check_triggers",
    "check_wait",
    "gathered",
    "items_of",
    "template_schema",
]

_ERRORS: dict[str, JSON] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"index": {"type": "integer"}, "code": {"type": "string"}, "message": {"type": "string"}},
        "required": ["index", "code", "message"],
        "additionalProperties": False,
    },
}


def check_model(report: Report, step: Step, path: str, name: str) -> None:
    """Check the model or role a step names against those that are known; those of this house only warn."""
    report.reference(step, path, name, report.known.models, "model")
    house = report.known.house
    if report.known.models is None and house is not None and name not in house:
        report.say(
            step.marks.get(path, step.mark),
            "model-not-here",
            f"the metier.yaml of this house has no model or role {name!r}",
            suggest(name, house),
            "warning",
        )


def check_agent(report: Report, step: Step, view: View) -> None:
    """Check the models, tools, approvals and hand-overs of an agent and of those it hands over to."""
    config = step.config if isinstance(step.config, dict) else {}
    others = config.get("handoffs")
    team: dict[str, JSON] = {"": config, **(others if isinstance(others, dict) else {})}
    for id, agent in team.items():
        if not isinstance(agent, dict):
            continue
        place = f"agent/handoffs/{id}" if id else "agent"
        if isinstance(model := agent.get("model"), str):
            check_model(report, step, f"{place}/model", model)
        tools = _texts(agent.get("tools"))
        for number, tool in enumerate(tools):
            _tool(report, step.marks.get(f"{place}/tools/{number}", step.mark), tool)
        for number, name in enumerate(_texts(agent.get("approve"))):
            if not any(_covers(tool, name) or _covers(name, tool) for tool in tools):
                report.say(
                    step.marks.get(f"{place}/approve/{number}", step.mark),
                    "no-such-tool",
                    f"{name!r} is to be approved, but it is none of the tools of {_whose(step, id)}",
                    suggest(name, tools),
                )
    if isinstance(others, dict):
        _reachable(report, step, others)
    report.template(config.get("conversation"), view, step.marks, "agent/conversation", step.mark)


def _reachable(report: Report, step: Step, others: Mapping[str, JSON]) -> None:
    if step.id in others:
        report.say(
            step.marks.get(f"agent/handoffs/{step.id}", step.mark),
            "two-agents",
            f"an agent of step {step.id!r} has the name of the step, which is the first agent",
            "give it another name",
        )
    for id, agent in others.items():
        if isinstance(agent, dict) and id in _texts(agent.get("handoffs")):
            report.say(
                step.marks.get(f"agent/handoffs/{id}/handoffs", step.mark),
                "own-handoff",
                f"the agent {id!r} hands over to itself",
                "remove it",
            )


def _tool(report: Report, mark: Mark, name: str) -> None:
    if name.startswith(OFFERED):
        flow, flows = name.removeprefix(OFFERED), report.known.flows
        if "@" in flow and flows is not None and flow not in flows:
            report.say(mark, "unknown-workflow", f"there is no workflow {flow!r}", suggest(flow, flows))
        return
    known = report.known.agent_tools
    if known is None:
        return
    if not any(_covers(name, one) for one in known):
        report.say(mark, "unknown-tool", f"there is no tool {name!r}", suggest(name, known))


def _covers(pattern: str, name: str) -> bool:
    return pattern == name or (pattern.endswith(".*") and name.startswith(pattern[:-1]))


def _whose(step: Step, id: str) -> str:
    return f"agent {id!r}" if id else f"step {step.id!r}"


def _texts(value: JSON) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def check_wait(report: Report, step: Step, view: View) -> None:
    """Check the expressions of a waiting or telling step, and that no waiting is without end."""
    config = step.config if isinstance(step.config, dict) else {}
    for key in ("for", "until", "key"):
        place = f"{step.kind}/{key}"
        report.template(config.get(key), view, step.marks, place, step.mark)
        types = types_of(template_schema(config.get(key), view))
        allowed = {"string"} if key == "until" else {"string", "integer", "number"}
        if key in config and types and not types & allowed:
            report.say(
                step.marks.get(place, step.mark),
                "wrong-type",
                f"{key!r} of step {step.id!r} must be text, and this is {words(types)}",
            )
    if step.kind != "wait":
        return
    if "event" in config and step.timeout_s is None:
        report.say(
            step.marks.get("wait/event", step.mark),
            "unbounded-wait",
            f"step {step.id!r} waits for {config['event']!r} without end",
            "add timeout: 7d, and on_error for when it does not come",
        )
    elif "event" not in config and step.timeout_s is not None:
        report.say(
            step.marks.get("timeout", step.mark),
            "useless-timeout",
            f"step {step.id!r} waits for a time that is known, so its timeout changes nothing",
            "remove timeout",
        )


def check_called(report: Report, step: Step, view: View, called: Workflow | None) -> None:
    """Check what is handed to a called workflow against the inputs it declares."""
    mark = step.marks.get("call/flow", step.mark)
    if called is not None:
        check_given(report, step.with_, called.inputs, view, step.marks, mark, called_path(step) or called.name)
    elif called_path(step) is None and isinstance(step.config, dict):
        report.reference(step, "call/flow", str(step.config.get("flow")), report.known.flows, "workflow")


def check_triggers(report: Report) -> None:
    """Check that every trigger gives the inputs of the workflow, and reads nothing but its event."""
    marks = report.workflow.marks
    for number, trigger in enumerate(report.workflow.triggers):
        place = f"triggers/{number}/{trigger.kind}"
        view = View({"event": {}}, {}, frozenset())
        own = {path.removeprefix(f"{place}/"): mark for path, mark in marks.items() if path.startswith(f"{place}/")}
        for key, template in trigger.with_.items():
            report.template(template, view, own, f"with/{key}", trigger.mark)
        for key, expr in (("when", trigger.when), ("dedupe", trigger.dedupe)):
            if expr is not None:
                mark = own.get(key, trigger.mark)
                report.condition(expr, view, mark) if key == "when" else report.expression(expr, view, mark)
        if _gives_inputs(trigger):
            what = f"the workflow started by this {trigger.kind} trigger"
            check_given(report, trigger.with_, report.workflow.inputs, view, own, own.get("with", trigger.mark), what)
        elif trigger.kind == "cron" and (wanted := _required(report.workflow.inputs)):
            report.say(
                trigger.mark,
                "missing-input",
                f"a cron trigger starts the workflow without {', '.join(map(repr, wanted))}",
                "add with:",
            )
        if report.known.trigger is not None and (wrong := report.known.trigger(trigger)):
            report.say(trigger.mark, "bad-trigger", wrong)


def _gives_inputs(trigger: Trigger) -> bool:
    """Tell whether the inputs are made from the event; without `with` the event itself becomes them."""
    return bool(trigger.with_)


def _required(schema: Schema) -> Collection[str]:
    required = schema.get("required")
    return [str(name) for name in required] if isinstance(required, list) else []


def items_of(report: Report, step: Step, view: View) -> Schema:
    """Find what one item of a foreach is, and refuse to go over what is no list."""
    config = step.config if isinstance(step.config, dict) else {}
    if "over" not in config:
        return {"type": "integer"}
    mark = step.marks.get("foreach/over", step.mark)
    report.template(config["over"], view, step.marks, "foreach/over", step.mark)
    schema = template_schema(config["over"], view)
    types = types_of(schema)
    if types and "array" not in types:
        report.say(
            mark,
            "not-a-list",
            f"foreach {step.id!r} goes over {words(types)}; it needs a list",
            "give a list, such as steps.plan.tasks",
        )
    elif allows_null(schema):
        report.say(
            mark,
            "may-be-null",
            f"foreach {step.id!r} goes over what may be null; it needs a list",
            "write … == null ? [] : …",
            "warning",
        )
    items = without_null(schema).get("items")
    if not isinstance(items, dict):
        return {}
    for _, expr in expressions_in(config["over"]):
        items = dict(shaped(items, of_element(view.facts, "item", parse(expr)), "item"))
    return items


def gathered(each: Schema, collect: bool) -> dict[str, JSON]:
    """Give the schemas of `items` and `errors` of a foreach whose items each give one value."""
    types = types_of(each)
    if not collect:
        items: Schema = each
    elif types and set(each) == {"type"}:
        items = {"type": [*sorted(types | {"null"})]}
    else:
        items = {}
    return {"items": {"type": "array", "items": dict(items)}, "errors": _ERRORS}


def template_schema(template: JSON, view: View) -> Schema:
    """Find the schema of what a template gives at a place; what is wrong in it is reported elsewhere."""
    match template:
        case str():
            cut = pieces(template)
            if len(cut) == 1 and cut[0].expression:
                return give(parse(cut[0].text), view)[0]
            return {"type": "string"}
        case dict():
            properties: dict[str, JSON] = {key: dict(template_schema(value, view)) for key, value in template.items()}
            return {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        case list():
            schemas = [dict(template_schema(item, view)) for item in template]
            alike = bool(schemas) and all(schema == schemas[0] for schema in schemas)
            return {"type": "array", "items": schemas[0]} if alike else {"type": "array"}
    return of_value(template)
