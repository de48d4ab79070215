"""The reference of the configuration is what the code and the example say.

Not held here: the example itself (`test_settings`).
"""

from __future__ import annotations

from deploy import configuration_table as reference
from gateway.effective import RELOADED
from gateway.settings import ProviderSettings, Settings


def rows() -> dict[str, list[str]]:
    """The cells of every key, by its path."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in reference.text().splitlines():
        if line.startswith("## "):
            section = line[3:].strip("`[]")
        elif line.startswith("| `"):
            name, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            found[f"{section}.{name.strip('`')}"] = cells
    return found


def test_the_reference_is_made_from_the_code() -> None:
    assert reference.TABLE.read_text("utf-8") == reference.text(), "make reference"


def test_every_key_is_there_with_its_meaning() -> None:
    found = rows()
    own = {f"providers.NAME.{name}" for name in ProviderSettings.__struct_fields__} - {"providers.NAME.name"}
    assert own <= found.keys()
    assert {path.partition(".")[0] for path in found} == {"At the top", *Settings.__struct_fields__[1:]}
    assert [path for path, cells in found.items() if cells[-1] == "-"] == []


def test_default_range_and_when_it_applies_are_those_of_the_structs() -> None:
    found = rows()
    told = {path: cells[1:4] for path, cells in found.items()}
    assert told["providers.NAME.poll_max"] == ['`"30s"`', "10ms to 1h", "reload"]
    assert told["providers.NAME.canary"] == ["-", "0 to 1", "reload"]
    assert told["providers.NAME.weight"] == ["`1`", "above 0 and at most 1000000", "reload"]
    assert told["providers.NAME.api_key"] == ["required", "-", "reload"]
    assert told["store.url"] == ['`"sqlite:reelgate.db"`', "-", "restart"]
    assert told["auth.mode"] == ['`"keys"`', '`"keys"`, `"off"`', "restart"]
    assert found["webhooks.secrets"][0].startswith("list: A secret")
    for path, (*_, applies, _means) in found.items():
        is_reloaded = path.partition(".")[0] in (*RELOADED, "At the top")
        assert applies == ("reload" if is_reloaded else "restart"), path
