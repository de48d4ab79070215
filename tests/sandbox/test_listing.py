"""`reelgate sandbox --faults`: the documented list, for people and for programs."""

from __future__ import annotations

import json

from click.testing import CliRunner

from gateway.__main__ import cli
from gateway.sandbox.catalogue import FAULTS, NOT_PLAYED, PHASES, table


def test_the_verb_prints_the_table_and_ends() -> None:
    result = CliRunner().invoke(cli, ["sandbox", "--faults"])
    assert (result.exit_code, result.stdout) == (0, table() + "\n")


def test_programs_get_every_field() -> None:
    result = CliRunner().invoke(cli, ["sandbox", "--faults", "--json"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert [fault["name"] for fault in told["faults"]] == list(FAULTS)
    assert all(set(fault["phases"]) <= set(PHASES) for fault in told["faults"])
    assert [tuple(row["rows"]) for row in told["not_played"]] == list(NOT_PLAYED)


def test_json_alone_is_no_usage() -> None:
    assert CliRunner().invoke(cli, ["sandbox", "--json"]).exit_code == 2


def test_all_69_rows_of_the_matrix_are_listed_for_people() -> None:
    played = {row for fault in FAULTS.values() for row in fault.rows}
    assert played | {row for rows in NOT_PLAYED for row in rows} == set(range(1, 70))
    lines = table().splitlines()
    for name, fault in FAULTS.items():
        line = next(line for line in lines if line[8:].split(" ")[0] == name)
        assert fault.text in line
        assert all(str(row) in line.split("  ")[0] for row in fault.rows)
        assert all(phase in line for phase in fault.phases)
        assert all(argument in line for argument in fault.args)
