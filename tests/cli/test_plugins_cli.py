"""`mccore plugins`, `mccore plugins new`, `mccore completion`, and the generated options of `mccore run`."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent

import click
import pytest

from mccore import plugins
from mccore.cli import main
from mccore.cli.setting_flags import ConfiguredCommand, given
from mccore.errors import ConfigError, PluginError, UsageError

Output = pytest.CaptureFixture[str]


def mccore(*arguments: str, path: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command in a fresh interpreter that finds more distributions in `path`."""
    code = "import sys; from mccore.cli import main; sys.exit(main())"
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "100", **environ}
    if path is not None:
        environ["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environ, timeout=120
    )


def install(site: Path, module: str, source: str, group: str = "mccore.allocators", name: str = "") -> None:
    """A distribution of one module, as an installer leaves it on disk."""
    info = site / f"{module}-0.7.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(dedent(source))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 0.7\nSummary: A thing\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name or module} = {module}\n")


# --- one plugin ----------------------------------------------------------------------------------------------------------


def test_a_plugin_shows_its_options_as_a_form_edits_them(capsys: Output) -> None:
    assert main(["plugins", "show", "allocator", "stochastic_greedy", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["distribution"]) == ("stochastic_greedy", "mccore-allocators")
    top_k = next(option for option in shown["options"] if option["path"] == "sample_top_k")
    assert top_k["widget"] == "number"
    assert top_k["bounds"]
    assert top_k["description"]
    assert main(["plugins", "show", "allocator", "stochastic_greedy"]) == 0
    assert "sample_top_k: " in capsys.readouterr().out


def test_a_panel_shows_where_it_stands_and_a_recipe_its_settings(capsys: Output) -> None:
    assert main(["plugins", "show", "panel", "lod_map", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["place"], shown["reads"]) == ("wide", ["working_context_snapshot"])
    assert main(["plugins", "show", "panel", "swap_rate"]) == 0
    assert "in the place of the metrics" in capsys.readouterr().out
    assert main(["plugins", "show", "recipe", "run10", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert "h100" in shown["profiles"]
    assert shown["config"]["recipe"] == "run10"
    assert main(["plugins", "show", "recipe", "run10"]) == 0
    assert "--gpu h100: " in capsys.readouterr().out


def test_a_plugin_that_is_not_there_or_faulty_is_told(tmp_path: Path, capsys: Output) -> None:
    assert main(["plugins", "show", "panel", "lodmap"]) != 0
    assert "did you mean lod_map" in capsys.readouterr().err
    install(tmp_path, "odd_panel", """
        from mccore.api import Extension
        from mccore.hookspecs import hookimpl
        print("to stdout")
        @hookimpl
        def mccore_panel():
            return Extension(build=lambda options, spec: 3, summary="x")
        """, group="mccore.panels")  # fmt: skip
    told = mccore("plugins", "show", "panel", "odd_panel", "--json", path=tmp_path)
    assert told.returncode != 0
    assert told.stdout == ""
    assert "lacks draw, place, reads, title" in told.stderr
    assert "odd_panel 0.7" in told.stderr


# --- listing -------------------------------------------------------------------------------------------------------------


def test_the_list_has_every_built_in(capsys: Output) -> None:
    assert main(["plugins", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    built_in = {(row["kind"], row["name"]) for row in rows if row["distribution"].startswith("mccore-")}
    assert built_in >= {
        ("tree", "ram"), ("tree", "disk"), ("allocator", "greedy"), ("allocator", "stochastic_greedy"),
        ("telemetry", "noop"), ("recipe", "tiny"), ("recipe", "long"), ("recipe", "run10"), ("recipe", "speedrun"),
        ("recipe", "run1000"),
    }  # fmt: skip
    assert set(rows[0]) == {"kind", "name", "distribution", "version", "module", "summary", "health"}
    assert main(["plugins"]) == 0
    table = capsys.readouterr().out
    for row in rows:
        assert row["name"] in table


def test_the_built_ins_pass_the_check(capsys: Output) -> None:
    assert main(["plugins", "--check", "--json"]) == 0
    assert {row["health"] for row in json.loads(capsys.readouterr().out)} == {"ok"}


def test_a_fault_is_shown_and_only_the_check_fails(tmp_path: Path) -> None:
    install(tmp_path, "crashing_plugin", "print('to stdout'); raise SystemExit(7)")
    install(tmp_path, "missing_source", "", name="other")
    (tmp_path / "missing_source.py").unlink()
    listed = mccore("plugins", path=tmp_path)
    assert listed.returncode == 0
    assert "no module named 'missing_source'" in listed.stdout
    assert "from: missing_source 0.7 (missing_source)" in listed.stdout
    checked = mccore("plugins", "--check", "--json", path=tmp_path)
    assert checked.returncode == 1
    health = {row["name"]: row["health"] for row in json.loads(checked.stdout)}
    assert "SystemExit: 7" in health["crashing_plugin"]
    assert health["tiny"] == "ok"


def test_the_check_resolves_recipes_with_their_profiles(tmp_path: Path) -> None:
    source = """
        from mccore.api import Recipe
        from mccore.config import RunConfig
        from mccore.hookspecs import hookimpl

        @hookimpl
        def mccore_recipe():
            return Recipe(config=RunConfig(), summary="wrong", profiles={"h100": {"model.depht": 3}})
    """
    install(tmp_path, "wrong_profile", source, group="mccore.recipes")
    checked = mccore("plugins", "--check", "--json", path=tmp_path)
    assert checked.returncode == 1
    health = {row["name"]: row["health"] for row in json.loads(checked.stdout)}
    assert "there is no setting 'model.depht'" in health["wrong_profile"]
    assert health["speedrun"] == "ok"


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["run", "--help"], ["run", "tiny", "--mc", "--dry-run"], ["completion", "zsh"]],
    ids=" ".join,
)
def test_broken_plugins_harm_no_unrelated_command(tmp_path: Path, arguments: list[str]) -> None:
    for kind in plugins.KINDS.values():
        install(tmp_path, f"broken_{kind.name}", "raise RuntimeError('broken')", group=kind.group)
    install(tmp_path, "empty_one", "")
    (tmp_path / "empty_one-0.7.dist-info" / "entry_points.txt").write_text("[mccore.trees]\nx = \n")
    done = mccore(*arguments, path=tmp_path, MCCORE_BASE_DIR=str(tmp_path / "base"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_disabling(tmp_path: Path) -> None:
    install(tmp_path, "crashing_plugin", "raise SystemExit(7)")
    done = mccore(
        "plugins", "--check", "--json", path=tmp_path, MCCORE_DISABLE_PLUGINS="allocator:crashing_plugin,nonsense"
    )
    assert done.returncode == 0
    health = {row["name"]: row["health"] for row in json.loads(done.stdout)}
    assert health["crashing_plugin"] == "disabled"
    assert "'nonsense', which is no plugin" in done.stderr


# --- a new package -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(plugins.KINDS))
def test_new_writes_a_whole_package(tmp_path: Path, capsys: Output, kind: plugins.KindName) -> None:
    target = tmp_path / "package"
    assert main(["plugins", "new", kind, "two_words", "--directory", str(target)]) == 0
    written = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    module = f"mccore_{kind}_two_words"
    assert written == sorted(
        ["README.md", f"{module}/__init__.py", f"{module}/py.typed", "pyproject.toml", "tests/test_two_words.py"]
    )
    project = tomllib.loads((target / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {plugins.KINDS[kind].group: {"two_words": module}}
    source = (target / module / "__init__.py").read_text()
    assert f"def {plugins.KINDS[kind].hook}()" in source
    for path in target.rglob("*.py"):
        ast.parse(path.read_text())
        assert "$" not in path.read_text()
    assert str(target / "pyproject.toml") in capsys.readouterr().out


def test_new_has_a_default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "new", "tree", "my_oak"]) == 0
    assert (tmp_path / "mccore-tree-my-oak" / "pyproject.toml").is_file()


def test_new_never_overwrites(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    assert main(["plugins", "new", "tree", "oak", "--directory", str(tmp_path)]) == UsageError.exit_code
    assert "isn't an empty directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    file = tmp_path / "precious.txt"
    assert main(["plugins", "new", "tree", "oak", "--directory", str(file)]) == UsageError.exit_code
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["", "Oak", "1oak", "oak-tree", "oak.tree", "../oak", "oak tree", "ö", "o" * 41])
def test_new_refuses_names_that_cannot_be_used(tmp_path: Path, capsys: Output, name: str) -> None:
    assert main(["plugins", "new", "tree", name, "--directory", str(tmp_path / "x")]) == UsageError.exit_code
    assert "can't be the name of a plugin" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_new_refuses_a_name_that_is_taken(tmp_path: Path, capsys: Output) -> None:
    assert main(["plugins", "new", "tree", "ram", "--directory", str(tmp_path / "x")]) == UsageError.exit_code
    assert "exists already, from mccore-trees" in capsys.readouterr().err


def test_new_knows_its_kinds(capsys: Output) -> None:
    assert main(["plugins", "new", "shrub", "oak"]) == 2
    assert "'tree', 'allocator', 'telemetry', 'recipe', 'panel'" in capsys.readouterr().err


# --- completion ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_a_shell(capsys: Output, shell: str) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_MCCORE_COMPLETE={shell}_complete" in script
    assert "mccore" in script


def test_completion_takes_the_shell_in_use(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert main(["completion"]) == 0
    assert "fish_complete" in capsys.readouterr().out
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert main(["completion"]) == UsageError.exit_code
    assert "no completion for shell 'tcsh'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("mccore plu", "plugins"),
        ("mccore run --allocator sto", "stochastic_greedy"),
        ("mccore run --tree r", "ram"),
        ("mccore run tiny --mc-lens-te", "--mc-lens-temperature"),
        ("mccore run tiny --allocator stochastic_greedy --allocator-sample-t", "--allocator-sample-top-k"),
        ("mccore run tiny --mc-positional gaussian_a", "gaussian_alibi"),
    ],
)
def test_completion_knows_commands_flags_and_plugins(words: str, expected: str) -> None:
    count = str(len(words.split()) - 1)
    done = mccore(_MCCORE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=count)
    assert f"plain,{expected}" in done.stdout.splitlines()


# --- options of `mccore run` ---------------------------------------------------------------------------------------------


@click.command(cls=ConfiguredCommand)
@click.argument("recipe", required=False)
@click.option("--name")
@click.pass_context
def command(ctx: click.Context, recipe: str | None, name: str | None) -> object:
    """A command with the generated options."""
    return given(ctx)


def typed(*arguments: str) -> dict[str, object]:
    asked = command.main(list(arguments), standalone_mode=False)
    return {"sets": asked.sets, **asked.flags} if asked.sets else asked.flags


def test_only_what_was_typed_is_given() -> None:
    assert typed("tiny") == {}
    assert not command.main(["tiny", "--name", "x"], standalone_mode=False)


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["--mc"], {"megacontext.enabled": True}),
        (["--no-mc"], {"megacontext.enabled": False}),
        (["--mc", "--no_mc"], {"megacontext.enabled": False}),
        (["--mc_lens_temperature", "0.5"], {"megacontext.lens.temperature": 0.5}),
        (["--mc-lens_temperature=0.5"], {"megacontext.lens.temperature": 0.5}),
        (["--no-mc-auto-batch"], {"megacontext.auto_batch": False}),
        (["--mc_gistnet_layers", "4"], {"megacontext.gistnet.layers": 4}),
        (["--mc-positional", "gaussian_alibi"], {"megacontext.positional": "gaussian_alibi"}),
        (["--block-size", "16"], {"megacontext.block_size": 16}),
        (["--allocator_type", "greedy"], {"megacontext.allocator": "greedy"}),
        (["--mc_tree", "disk"], {"megacontext.tree": "disk"}),
        (["--telemetry", "noop", "--telemetry", "otel"], {"telemetry": ["noop", "otel"]}),
        (["--gpu", "5090", "--nproc", "2"], {"hardware.gpu": "5090", "hardware.nproc": 2}),
        (["--set", "a=1", "--set", "b=2"], {"sets": ["a=1", "b=2"]}),
        (["--allocator_recent_tokens", "64"], {"megacontext.allocator.options.recent_tokens": 64}),
        (
            ["--allocator", "stochastic_greedy", "--allocator_sample_top_k=8"],
            {"megacontext.allocator": "stochastic_greedy", "megacontext.allocator.options.sample_top_k": 8},
        ),
        (
            ["--allocator-sample-top-k", "8", "--set", "megacontext.allocator=stochastic_greedy"],
            {
                "sets": ["megacontext.allocator=stochastic_greedy"],
                "megacontext.allocator.options.sample_top_k": 8,
            },
        ),
    ],
)
def test_flags_become_paths(arguments: list[str], flags: dict[str, object]) -> None:
    assert typed("tiny", *arguments) == flags
    assert typed(*arguments, "tiny") == flags


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mc-lens-temperature", "0"], "0.0 is not in the range 0.0<x"),
        (["--block-size", "1"], "1 is not in the range 2<=x<=128"),
        (["--nproc", "many"], "'many' is not a valid integer"),
        (["--mc-gistnet-layers", "3"], "'3' is not one of '1', '2', '4'"),
        (["--mc-lens-temprature", "1"], "--mc-lens-temperature"),
    ],
)
def test_bad_values_are_usage_errors(arguments: list[str], words: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        typed("tiny", *arguments)
    assert words in caught.value.format_message()


def test_an_option_that_the_allocator_lacks_is_explained() -> None:
    with pytest.raises(ConfigError) as caught:
        typed("tiny", "--allocator", "greedy", "--allocator_sample_top_k", "4")
    message = caught.value.render()
    assert "`--allocator_sample_top_k`: allocator 'greedy' has no option 'sample_top_k'" in message
    assert "stochastic_greedy has it" in message


def test_a_malformed_set_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="is no assignment"):
        typed("tiny", "--set", "model.depth")


def test_options_of_an_unknown_allocator_name_the_allocator() -> None:
    with pytest.raises(PluginError, match="no allocator named 'gredy'"):
        typed("tiny", "--allocator", "gredy", "--allocator-recent-tokens", "3")


def test_help_shows_sections_defaults_and_the_chosen_allocators_options(capsys: Output) -> None:
    assert main(["run", "tiny", "--allocator", "stochastic_greedy", "--help"]) == 0
    text = capsys.readouterr().out
    for section in ("Options:", "Run:", "MegaContext:", "GistNet:", "LensNet:", "Allocator stochastic_greedy:"):
        assert f"\n{section}\n" in text
    assert "--allocator-sample-top-k" in text
    assert "greedy, spans, stochastic_greedy" in " ".join(text.split())
    assert main(["run", "speedrun", "--help"]) == 0
    nproc = capsys.readouterr().out.partition("--nproc")[2].partition("--nnodes")[0]
    assert "[default: 8]" in " ".join(nproc.split())


def test_an_error_names_the_flag_as_it_was_typed(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path))
    assert main(["run", "tiny", "--dry-run", "--allocator_type", "greedy"]) == 2
    assert "`--allocator_type` has no effect without --mc" in capsys.readouterr().err
    assert main(["run", "tiny", "--dry-run", "--mc_block_size=16"]) == 2
    assert "`--mc_block_size` has no effect without --mc" in capsys.readouterr().err
