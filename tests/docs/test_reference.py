"""The reference is made from the code: it has every name, and a name without a meaning fails it."""

from typing import Literal

import pytest
import typer
import typer.main
from pydantic import Field
from pydantic.fields import FieldInfo

from convserve.commands import COMMANDS
from protos.gen import model_config_pb2 as pb
from scripts.reference import (
    PAGES,
    Undocumented,
    client,
    commands,
    errors,
    metrics,
    model_config,
    recipe,
    settings,
)
from scripts.reference.text import parts, sentence
from serving.base.counting.sums import Share, Tally
from serving.base.errors import InvalidModelConfig, ServingError
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.repository.config_checks import check_offered
from serving.repository.config_fields import unused
from serving.repository.model_config import from_proto
from serving.server.config import ServerConfig
from tests.docs.documents import DOCS, text_of
from training.recipes.fields import Strict


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_listed_and_written_by_no_hand(path: str) -> None:
    assert text_of(f"docs/{path}").startswith("# ")
    assert not (DOCS / path).exists()
    assert f"({path.removeprefix('reference/')})" in text_of("docs/reference/index.md")


def test_every_setting_has_flag_variable_and_key() -> None:
    page = text_of("docs/reference/settings.md")
    for name in ServerConfig.model_fields:
        assert f"`--{name.replace('_', '-')}`" in page
        assert f"`CONVSERVE_{name.upper()}`" in page
        assert f"`{name}:`" in page


def test_every_command_has_a_section() -> None:
    page = text_of("docs/reference/cli.md")
    assert {name.split(" ")[0] for name in commands.leaves()} == set(COMMANDS)
    assert all(f"\n## {name} {{" in page for name in commands.leaves())


def test_every_metric_is_named_as_prometheus_shows_it() -> None:
    page = text_of("docs/reference/metrics.md")
    for name in (
        "convserve_shed_total", "convserve_queue_depth", "nv_inference_count", "nv_gpu_utilization",
        "convserve_stage_duration_seconds", "convserve_repository_listing_age_seconds",
    ):  # fmt: skip
        assert f"### `{name}`" in page


def test_every_section_of_a_recipe_is_there_with_its_keys() -> None:
    page = text_of("docs/reference/recipe.md")
    models = recipe.sections()
    assert len(models) > 60
    for model in models:
        assert f"{{ #{model.__name__.lower()} }}" in page
        assert all(f"| `{key}` |" in page for key in model.model_fields)


def test_limits_and_defaults_are_those_of_the_code() -> None:
    page = text_of("docs/reference/recipe.md")
    assert "| `momentum` | number ≥ 0, < 1 | `0.9` |" in page
    assert "| `opset` | integer 18 to 23 | `20` |" in page
    assert "text · `auto` or `native`" not in text_of("docs/reference/settings.md")
    assert "default `1024`" in text_of("docs/reference/settings.md")


def test_a_setting_without_a_description_fails() -> None:
    with pytest.raises(Undocumented, match="setting new_thing"):
        settings.setting("new_thing", FieldInfo(annotation=int, default=1))
    described = FieldInfo(annotation=int, default=1, description="A thing.")
    assert "A thing." in settings.setting("new_thing", described)


def test_a_recipe_key_without_a_meaning_fails() -> None:
    class Section(Strict):
        """A section.

        known: a key.
        """

        name: Literal["one"]
        known: int = Field(1, ge=0)
        unknown: int = 1

    fields = Section.model_fields
    assert recipe.meaning(Section, "known", fields["known"]) == "A key."
    assert recipe.meaning(Section, "name", fields["name"]) == "Chooses this section."
    with pytest.raises(Undocumented, match="unknown of Section"):
        recipe.meaning(Section, "unknown", fields["unknown"])


def test_an_option_without_a_help_fails() -> None:
    def work(thing: int = typer.Option(1)) -> None:
        """Work."""

    app = typer.Typer()
    app.command()(work)
    with pytest.raises(Undocumented, match="thing has no help"):
        commands.section("work", typer.main.get_command(app))


def test_a_metric_without_a_documentation_fails() -> None:
    share = Share()
    share.new = Tally("convserve_new", "", ())  # type: ignore[attr-defined]
    with pytest.raises(Undocumented, match="convserve_new"):
        metrics.described(share)
    assert metrics.described(FrontMetrics())
    assert metrics.described(EngineMetrics())


def test_an_error_without_a_remedy_fails() -> None:
    class NewFault(ServingError):
        """A new fault."""

    assert errors.meaning(NewFault) == "A new fault."
    with pytest.raises(Undocumented, match="NewFault"):
        errors.remedy(NewFault)


def test_every_error_has_its_status_on_both_wires() -> None:
    assert "| [`Shed`](#shed) | `RESOURCE_EXHAUSTED` | 429 |" in text_of("docs/reference/errors.md")
    assert {kind.__name__ for kind, _ in errors.tree()} >= {"OverLimit", "NotTrusted"}


def test_a_public_name_of_the_client_without_a_docstring_fails() -> None:
    class Bare:
        pass

    with pytest.raises(Undocumented, match="Bare"):
        client.described("Bare", Bare)


@pytest.mark.parametrize(
    ("message", "field"),
    [(message, field) for message, fields in model_config.REFUSED.items() for field in fields],
)
def test_fields_of_config_pbtxt_that_are_said_to_be_refused_are(message: str, field: str) -> None:
    proto = pb.ModelConfig(
        max_batch_size=4,
        input=[pb.ModelInput(name="x", data_type=pb.TYPE_FP32, dims=[4])],
        output=[pb.ModelOutput(name="y", data_type=pb.TYPE_FP32, dims=[4])],
    )
    part = {"ModelInput": proto.input, "ModelOutput": proto.output}.get(message, [proto])[0]
    if field == "optional":
        part.optional = True
    elif field == "reshape":
        part.reshape.shape.append(1)
    else:
        getattr(part, field).SetInParent()
    path = DOCS / "model" / "config.pbtxt"
    with pytest.raises(InvalidModelConfig, match=field):
        check_offered(from_proto(proto, path), path.parent)


def test_fields_of_config_pbtxt_that_are_said_to_be_passed_over_are() -> None:
    page = text_of("docs/reference/config-pbtxt.md")
    proto = pb.ModelConfig(response_cache=pb.ModelResponseCache(enable=True))
    proto.dynamic_batching.preserve_ordering = True
    assert unused(proto) == ["dynamic_batching.preserve_ordering", "response_cache"]
    for line in page.splitlines():
        if "`response_cache`" in line or "`preserve_ordering`" in line:
            assert line.startswith("Parsed and named in a warning")


def test_entries_of_a_docstring_are_told_from_its_prose() -> None:
    prose, entries = parts(
        """What it is: a thing.

        one, two: both,
            as it goes on.
        three: 3.

        More prose.

            call(it)
            again()
        """
    )
    assert prose == "What it is: a thing.\n\nMore prose.\n\n    call(it)\n    again()"
    assert entries == {"one": "both, as it goes on.", "two": "both, as it goes on.", "three": "3."}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("words of prose", "Words of prose."),
        ("none: nothing", "none: nothing."),
        ("config.pbtxt does not parse", "config.pbtxt does not parse."),
        ("a * b < c in [0, 1]", "A \\* b \\< c in \\[0, 1]."),
        ("`a * b` stays", "`a * b` stays."),
        ("    call(it)", "```python\ncall(it)\n```"),
    ],
)
def test_texts_of_the_code_are_made_sentences_and_nothing_else(text: str, shown: str) -> None:
    assert sentence(text) == shown
