"""`--recipe` and `bootgraft recipe`: what is chosen, what the payload holds, what is refused."""

import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bootgraft_agent.errors import InvalidRequestError
from bootgraft_agent.recipe_file import RecipeError, library
from bootgraft_host.recipes import (
    Chosen,
    Setting,
    choose_recipes,
    make_payload_iso,
    parse_setting,
    read_payload_folder,
    read_setting,
)
from host.shell import Output, Shell
from host.simulated import CONFIGURATION, Guest, plan_result
from vm.commands import run
from vm.payload import build_payload

HEAD = 'version = 1\nname = "{name}"\ndescription = "for a test"\n'
PARAMETER = '[parameters.{name}]\ndescription = "a word"\n{more}\n'
COPY = '[[action]]\ndo = "copy"\npath = "/etc/x"\nsource = "{source}"\n'
DIRECTORY = '[[action]]\ndo = "directory"\npath = "/srv/x"\n'
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA a@b"
SETTING = "planted-setting"


def write_recipe(folder: Path, *parts: str, name: str = "mine") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(HEAD.format(name=name) + "".join(parts or (DIRECTORY,)))
    return path


def parameter(name: str, more: str = "required = true") -> str:
    return PARAMETER.format(name=name, more=more)


def extract(iso: Path, folder: Path) -> Path:
    run(["xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", folder])
    run(["chmod", "-R", "u+w", folder])
    return folder


def listed(tree: Path) -> dict[str, Any]:
    return tomllib.loads((tree / "recipes.toml").read_text())


def files(tree: Path) -> list[str]:
    return sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())


# Choosing.


def test_recipes_are_chosen_by_name_and_by_file_in_their_order(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, parameter("word"), DIRECTORY)
    words = ("serial-console", str(path), "hyperv-shim")
    chosen = choose_recipes(words, [Setting(None, "word", "a"), Setting(None, "speed", "9600")])
    assert [(each.name, each.path, each.settings) for each in chosen] == [
        ("serial-console", None, {"speed": "9600"}),
        ("mine", path, {"word": "a"}),
        ("hyperv-shim", None, {}),
    ]


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (["nothing-like-it"], [], "nothing-like-it is neither a file nor a ready recipe"),
        (["serial-console", "serial-console"], [], "serial-console is named twice"),
        (["authorized-key"], [], "authorized-key needs the parameter key"),
        (["serial-console"], ["colour=red"], "no recipe of this run has a parameter colour"),
        (["serial-console"], ["speed=fast"], "the parameter speed must match"),
        (["serial-console"], ["other.speed=9600"], "no recipe other in this run"),
        (["hyperv-shim"], ["hyperv-shim.port=1"], "hyperv-shim has no parameter port"),
    ],
)
def test_a_wrong_choice_is_refused_in_words(
    words: Sequence[str], settings: Sequence[str], said: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        choose_recipes(words, [parse_setting(each) for each in settings])
    assert said in str(refused.value)


def test_a_parameter_that_several_recipes_have_must_name_its_recipe(tmp_path: Path) -> None:
    first = write_recipe(tmp_path, parameter("word"), DIRECTORY, name="first")
    second = write_recipe(tmp_path, parameter("word"), DIRECTORY, name="second")
    words = (str(first), str(second))
    with pytest.raises(RecipeError, match=r"say first\.word or second\.word"):
        choose_recipes(words, [Setting(None, "word", "x")])
    chosen = choose_recipes(words, [parse_setting("first.word=1"), parse_setting("second.word=2")])
    assert [each.settings for each in chosen] == [{"word": "1"}, {"word": "2"}]


def test_a_setting_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert read_setting(f"key={tmp_path / 'key'}") == Setting(None, "key", KEY)
    (tmp_path / "key").write_bytes(b"x" * (64 * 1024 + 1))
    with pytest.raises(ValueError, match="more than 65536 bytes"):
        read_setting(f"key={tmp_path / 'key'}")


@pytest.mark.parametrize("text", ["word", "=value", "Upper=1", "a.b.c d=1"])
def test_a_setting_without_a_name_and_a_value_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=VALUE"):
        parse_setting(text)


# The payload.


def test_the_payload_holds_the_recipes_their_files_and_nothing_else_beside_them(
    tmp_path: Path,
) -> None:
    beside = tmp_path / "mine"
    path = write_recipe(beside, COPY.format(source="etc/motd"), COPY.format(source="house"))
    for name in ("etc/motd", "etc/private", "house/a", "house/rooms/b", "private"):
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        (beside / name).write_text(name)
    chosen = choose_recipes((str(path), "authorized-key"), [Setting(None, "key", KEY)])
    iso = tmp_path / "payload.iso"
    make_payload_iso(chosen, None, iso, _scratch(tmp_path))
    assert stat.S_IMODE(iso.stat().st_mode) == 0o600
    tree = extract(iso, tmp_path / "tree")
    assert listed(tree) == {
        "version": 1,
        "recipe": [
            {"file": "recipes/01-mine/recipe.toml"},
            {"name": "authorized-key", "set": {"key": KEY}},
        ],
    }
    assert files(tree) == [
        "recipes.toml",
        *(f"recipes/01-mine/{name}" for name in ("etc/motd", "house/a", "house/rooms/b")),
        "recipes/01-mine/recipe.toml",
    ]
    assert (tree / "recipes/01-mine/recipe.toml").read_bytes() == path.read_bytes()


def test_a_source_that_only_the_guest_can_name_takes_its_folder_along(tmp_path: Path) -> None:
    action = COPY.format(source="nets/{interface}.conf") + 'for_each = "interfaces"\n'
    path = write_recipe(
        tmp_path / "mine", parameter("place"), COPY.format(source="{place}"), action
    )
    for name in ("nets/eth0.conf", "nets/eth1.conf", "chosen", "private"):
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_text(name)
    chosen = choose_recipes((str(path),), [Setting(None, "place", "chosen")])
    make_payload_iso(chosen, None, tmp_path / "payload.iso", _scratch(tmp_path))
    assert files(extract(tmp_path / "payload.iso", tmp_path / "tree")) == [
        *("recipes.toml", "recipes/01-mine/chosen", "recipes/01-mine/nets/eth0.conf"),
        *("recipes/01-mine/nets/eth1.conf", "recipes/01-mine/recipe.toml"),
    ]


@pytest.mark.parametrize("rock_ridge", [False, True])
def test_the_shim_comes_out_of_the_payload_iso(tmp_path: Path, *, rock_ridge: bool) -> None:
    names = {"shim/xen-64.gz": b"the shim", "shim/readme.txt": b"read me"}
    given = build_payload(tmp_path, files=names, rock_ridge=rock_ridge)
    chosen = (
        Chosen("drop-persistent-net", library()["drop-persistent-net"]),
        Chosen("hyperv-shim"),
    )
    make_payload_iso(chosen, given, tmp_path / "made.iso", _scratch(tmp_path))
    tree = extract(tmp_path / "made.iso", tmp_path / "tree")
    assert listed(tree)["recipe"] == [{"name": "drop-persistent-net"}, {"name": "hyperv-shim"}]
    shim = "xen-64.gz" if rock_ridge else "xen_64.gz"
    assert files(tree) == ["recipes.toml", "shim/readme.txt", f"shim/{shim}"]
    assert (tree / "shim" / shim).read_bytes() == b"the shim"


def _scratch(folder: Path) -> Path:
    scratch = folder / "scratch"
    scratch.mkdir()
    return scratch


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("absent", "there is no file or directory"),
        ("link", "link is a link; put the file itself there"),
        ("{word}", "is not a path below the recipe's folder"),
    ],
)
def test_a_source_that_is_not_a_file_beside_the_recipe_is_refused_with_its_line(
    tmp_path: Path, source: str, said: str
) -> None:
    path = write_recipe(
        tmp_path / "mine",
        parameter("word", 'default = "../../etc/passwd"'),
        COPY.format(source=source),
    )
    (path.parent / "link").symlink_to("/etc/passwd")
    with pytest.raises(RecipeError, match=said) as refused:
        make_payload_iso(choose_recipes((str(path),), ()), None, tmp_path / "x", _scratch(tmp_path))
    assert str(refused.value).startswith(f"{path}:7: ")
    assert not (tmp_path / "x").exists()


def test_a_link_in_a_directory_that_is_copied_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "mine", COPY.format(source="house"))
    (path.parent / "house").mkdir()
    (path.parent / "house/out").symlink_to("/etc/passwd")
    with pytest.raises(InvalidRequestError, match="out is neither a file nor a directory"):
        make_payload_iso(choose_recipes((str(path),), ()), None, tmp_path / "x", _scratch(tmp_path))


def test_too_much_beside_a_recipe_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "mine", COPY.format(source="big"))
    with (path.parent / "big").open("wb") as big:
        big.truncate(513 << 20)  # sparse
    with pytest.raises(InvalidRequestError, match=r"more than 536870912 bytes: .*big is one too"):
        make_payload_iso(choose_recipes((str(path),), ()), None, tmp_path / "x", _scratch(tmp_path))


# A payload's folder.


def test_a_folder_with_recipes_is_read_in_order(tmp_path: Path) -> None:
    write_recipe(tmp_path / "net", parameter("word"), DIRECTORY, name="net")
    (tmp_path / "recipes.toml").write_text(
        'version = 1\n[[recipe]]\nfile = "net/net.toml"\nset = { word = "x" }\n'
        '[[recipe]]\nname = "hyperv-shim"\n'
    )
    (tmp_path / "SHIM").mkdir()
    (tmp_path / "SHIM/xen.gz").touch()
    recipes, shim = read_payload_folder(tmp_path)
    assert [(each.name, dict(each.settings)) for each in recipes] == [
        ("net", {"word": "x"}),
        ("hyperv-shim", {}),
    ]
    assert shim == tmp_path / "SHIM"


def test_a_folder_with_one_recipe_is_that_one(tmp_path: Path) -> None:
    write_recipe(tmp_path).rename(tmp_path / "recipe.toml")
    recipes, shim = read_payload_folder(tmp_path)
    assert ([each.name for each in recipes], shim) == (["mine"], None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('version = 1\n[[recipe]]\nname = "absent"\n', "there is no ready recipe absent"),
        ('version = 1\n[[recipe]]\nfile = "absent.toml"\n', "names absent.toml, which is not"),
        ('version = 1\n[[recipe]]\nname = "authorized-key"\n', "needs the parameter key"),
        ("version = 7\n", r"recipes\.toml:1: "),
    ],
)
def test_a_wrong_list_of_recipes_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "recipes.toml").write_text(text)
    with pytest.raises(InvalidRequestError, match=said):
        read_payload_folder(tmp_path)


# The command line.


def test_check_names_every_problem_of_every_file_with_its_line(
    shell: Shell, tmp_path: Path
) -> None:
    good = write_recipe(tmp_path, name="good")
    bad = write_recipe(tmp_path, DIRECTORY, '[[action]]\ndo = "dance"\n', name="bad")
    worse = write_recipe(tmp_path, COPY.format(source="absent"), name="worse")
    output = shell("recipe", "check", str(good), state=False)
    assert (output.status, output.out) == (0, f"{good}: good; good, 1 action\n")
    output = shell("recipe", "check", str(bad), str(good), str(worse), state=False)
    assert output.status == 2
    first, second = output.err.splitlines()
    assert first.startswith(f"bootgraft: {bad}:8: do must be one of")
    assert second.startswith(f"bootgraft: {worse}:4: there is no file or directory")
    assert f"{good}: good" in output.out


def test_explain_says_a_recipe_in_words_with_its_settings(shell: Shell, tmp_path: Path) -> None:
    output = shell("recipe", "explain", "serial-console", "--set", "port=ttyS1", state=False)
    assert output.status == 0
    assert '"ttyS1", as set' in output.out
    path = write_recipe(tmp_path)
    assert "make the directory /srv/x" in shell("recipe", "explain", str(path), state=False).out
    coloured = write_recipe(tmp_path, parameter("colour"), DIRECTORY, name="coloured")
    for setting, known in (
        ("hue=red", "coloured has no parameter hue; it has: colour"),
        ("other.colour=red", "coloured has no parameter other.colour; it has: colour"),
    ):
        refused = shell("recipe", "explain", str(coloured), "--set", setting, state=False)
        assert (refused.status, known in refused.err) == (2, True)
    refused = shell("recipe", "explain", str(path), "--set", "colour=red", state=False)
    assert "mine has no parameter colour; it has: none" in refused.err


def test_what_is_no_recipe_file_is_told_in_words(shell: Shell, tmp_path: Path) -> None:
    path = write_recipe(tmp_path).rename(tmp_path / "recipe.toml")
    explained = shell("recipe", "explain", str(tmp_path), state=False)
    assert f"is a directory: name the recipe in it, {path}" in explained.err
    checked = shell("recipe", "check", str(tmp_path), "serial-console", state=False)
    assert checked.err.splitlines() == [
        f"bootgraft: {tmp_path} cannot be read: Is a directory",
        "bootgraft: serial-console cannot be read: No such file or directory; a ready recipe needs"
        " no check",
    ]


def test_the_list_has_every_ready_recipe(shell: Shell) -> None:
    output = shell("recipe", "list", state=False)
    assert output.status == 0
    for name in ("hyperv-shim", *library()):
        assert f"{name}: " in output.out


def patch(shell: Shell, *more: str) -> Output:
    plan = plan_result(already_grafted=False, recipe="serial-console:0123456789ab")
    shell.guest = Guest(answers={"plan": plan})
    return shell(
        *("run", "vm", "--recipe", "serial-console", "--expect", "booted with token"),
        *(*shell.live, *more),
    )


def test_a_run_with_recipes_makes_a_payload_and_leaves_the_adapter_alone(shell: Shell) -> None:
    output = patch(shell)
    assert (output.status, output.err.splitlines()[0]) == (
        0,
        "payload: make a payload of serial-console",
    )
    assert "recipes: serial-console" in output.out
    assert "legacy" not in output.out
    assert shell.machine().configuration["adapter"] == CONFIGURATION["adapter"]
    assert not list(shell.folder.rglob("payload.iso.*"))
    assert list(shell.folder.rglob("payload.iso")) == [shell.payload]


def test_a_secret_setting_is_written_nowhere(shell: Shell) -> None:
    path = write_recipe(
        shell.folder, parameter("word", "secret = true\nrequired = true"), DIRECTORY
    )
    output = patch(shell, "--recipe", str(path), "--set", f"word={SETTING}", "--json")
    assert output.status == 0, output.err
    kept = [path.read_bytes() for path in (shell.folder / "state").rglob("*") if path.is_file()]
    assert SETTING not in output.out + output.err
    assert not [content for content in kept if SETTING.encode() in content]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "vm"], "Give --payload, or --recipe, or both"),
        (["run", "vm", "--set", "a=1", "--payload", "x"], "which --recipe names"),
        (["run", "vm", "--recipe", "hyperv-shim"], "hyperv-shim needs --payload"),
        (
            ["run", "vm", "--recipe", "serial-console", "--payload", "x.iso"],
            "--payload gives hyperv-shim its shim",
        ),
        (
            ["run", "hyperv://h/vm", "--recipe", "serial-console", "--iso", "x"],
            "--upload brings it to the host",
        ),
        (["run", "vm", "--recipe", "serial-console", "--set", "speed"], "NAME=VALUE"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_done(
    shell: Shell, argv: Sequence[str], said: str
) -> None:
    output = shell(*argv)
    assert output.status == 2
    assert said in output.err
    assert not (shell.folder / "state").exists()
