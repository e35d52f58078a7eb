"""Whatever a store lists are files in the folder of a model, or that model's problem."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.base.files import is_plain_name
from serving.base.storage.entry import Entry
from serving.base.storage.web import entries
from serving.repository.layout import can_be_folder, is_version
from serving.repository.places.objects import mark, models_in

_PARTS = st.sampled_from(
    ["m", "M", "1", "01", "warmup", "model.onnx", "Model.ONNX", "config.pbtxt", "..", ".", "",
     "%2e%2e", "%2F", "a\\b", "a\0", "\ud800", "x" * 256]
) | st.text(max_size=4)  # fmt: skip
_PATHS = st.lists(_PARTS, min_size=1, max_size=5).map("/".join)
_ROOTS = st.sampled_from(["s3://b/r", "https://h/r"])


@settings(settings.get_profile("fuzz"))
@given(
    _ROOTS, st.lists(st.tuples(_PATHS, st.integers(0, 1 << 50), st.text(max_size=3)), max_size=8)
)
@example("s3://b/r", [("/m", 0, "")])
@example("https://h/r", [("m/1/..%2F..%2Fpasswd", 1, "")])
@example("s3://b/r", [("m/1", 1, ""), ("m/1/x", 1, "")])
def test_listing_is_files_of_models_or_problems(
    root: str, listed: list[tuple[str, int, str]]
) -> None:
    files = [Entry(f"{root}/{path}", False, size, changed) for path, size, changed in listed]
    for name, model in models_in(root, files).items():
        assert name == model.name
        assert name.isprintable()
        assert model.problem.isprintable()
        assert can_be_folder(name) or model.problem
        beside = [part for path in model.beside for part in path.split("/")]
        inside = [part for held in model.versions.values() for part in held]
        assert all(map(is_plain_name, beside + inside))
        assert all(is_version(str(number)) for number in model.versions)
        for held in (model.beside, *model.versions.values()):
            assert len(mark(held)) == 64
            if not model.problem:
                assert len({one.casefold() for one in held}) == len(held)


@settings(settings.get_profile("fuzz"))
@given(st.text(), st.lists(st.tuples(st.sampled_from("'\"  >"), _PATHS), max_size=4))
@example("", [("'", "//other/r/m/")])
@example("", [('"', "http://[")])
@example("", [('"', "&#" + "9" * 5000 + ";")])
@example("<a" + " " * 10_000, [])
def test_links_of_a_page_lead_into_its_folder(text: str, links: list[tuple[str, str]]) -> None:
    page = text + "".join(f"<a href={quote}{path}{quote}>{text}" for quote, path in links)
    for place in entries(page, "https://h/r"):
        name = place.removeprefix("https://h/r/").removesuffix("/")
        assert place.startswith("https://h/r/")
        assert name
        assert not {"/", "?", "#"} & set(name)
