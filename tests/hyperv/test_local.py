"""Scripts on the Hyper-V host itself: powershell.exe, its launcher, and what may come back.

There is no Windows PowerShell here. A stand-in, a program of its own, keeps to what the launcher's
head says: it reads the request, has the script interpreted by the tests' own interpreter and
prints the document. The launcher's text is parsed, and never run.
"""

import base64
import json
import os
import sys
import time
from pathlib import Path

import pytest
import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

from bootgraft_host.hyperv import local
from bootgraft_host.hyperv.local import ANSWER_MARK, LocalRunner
from bootgraft_host.hyperv.runner import HostError, ScriptError, UnreachableError

TESTS = Path(__file__).parents[1]
SCRIPTS = Path(local.__file__).parent / "scripts"

PRELUDE = f"""\
#!{sys.executable}
import base64, json, os, pathlib, sys, time
sys.path.insert(0, {str(TESTS)!r})
def answer(**document):
    text = base64.b64encode(json.dumps(document, ensure_ascii=False).encode()).decode("ascii")
    print("bootgraft-answer " + text)
"""

INTERPRET = """
from hyperv.powershell import run_script
from hyperv.values import PowerShellError, Session, World
script = pathlib.Path(sys.argv[sys.argv.index("-Script") + 1])
try:
    request = sys.stdin.buffer.read().decode("ascii")
    output = run_script(script.read_text("utf-8"), {"Request": request}, Session(world()))
except PowerShellError as error:
    answer(Output=[], Errors=[{"Message": error.message, "FullyQualifiedErrorId": error.error_id,
                               "Category": error.category}])
else:
    answer(Output=output, Errors=[])
"""

MODEL = """
from hyperv.values import Command, PSObject
def world():
    made = World()
    made.add_commands(Command("Hyper-V\\\\Get-VM", {}, get_vm))
    return made
"""

FIND_MODEL = """
def get_vm(session, arguments):
    vm = {"Id": "0f1e", "Name": "B\\u00fcro 1", "Generation": 1, "State": "Off"}
    return [PSObject(vm.items())]
"""

FAILING_MODEL = """
def get_vm(session, arguments):
    raise PowerShellError(
        "Der Computer \\u00bbhv1\\u00ab konnte nicht gefunden werden.",
        "InvalidParameter,Microsoft.HyperV.PowerShell.Commands.GetVM", "InvalidArgument")
"""


def stand_in(folder: Path, text: str) -> LocalRunner:
    """Give a runner whose powershell.exe is a program of this text."""
    path = folder / "powershell.exe"
    path.write_text(PRELUDE + text, encoding="utf-8")
    path.chmod(0o755)
    return LocalRunner(str(path))


def test_the_launcher_parses_and_names_what_the_runner_reads() -> None:
    parser = Parser(Language(tree_sitter_powershell.language()))
    root = parser.parse((SCRIPTS / "local" / "launch.ps1").read_bytes()).root_node
    assert not root.has_error
    assert texts_of(root, "key_expression") == [
        *("Message", "FullyQualifiedErrorId", "Category", "Output", "Errors")
    ]
    assert f"'{ANSWER_MARK.decode()}'" in texts_of(root, "string_literal")
    # With it, PowerShell would read standard input itself.
    assert "$input" not in [text.lower() for text in texts_of(root, "variable")]


def texts_of(node: Node, kind: str) -> list[str]:
    """The texts of all nodes of this kind, in their order."""
    if node.type == kind and node.text is not None:
        return [node.text.decode()]
    return [text for child in node.children for text in texts_of(child, kind)]


def test_powershell_is_asked_for_no_profile_and_the_constant_files_alone(tmp_path: Path) -> None:
    runner = stand_in(tmp_path, "answer(Output=[json.dumps([{'argv': sys.argv[1:]}])], Errors=[])")
    assert runner.run("find", {"Name": "secret"}) == [
        {
            "argv": [
                *("-NoLogo", "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass"),
                *("-File", str(SCRIPTS / "local" / "launch.ps1")),
                *("-Script", str(SCRIPTS / "find.ps1")),
            ]
        }
    ]


def test_the_request_goes_in_as_ascii_and_the_answer_comes_back_whole(tmp_path: Path) -> None:
    runner = stand_in(
        tmp_path,
        "request = sys.stdin.buffer.read()\n"
        "assert request.isascii()\n"
        "answer(Output=[json.dumps([json.loads(request)])], Errors=[])",
    )
    asked = {"Name": "Bürgeramt \u20ac \U0001f5a5", "Data": "A" * 2_000_000, "Quote": "'\"$(x)`n"}
    assert runner.run("find", asked) == [asked]
    assert runner.another().run("find") == [{}]


def test_the_modules_of_another_powershell_are_not_handed_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSModulePath", "C:\\Program Files\\PowerShell\\7\\Modules")
    monkeypatch.setenv("BOOTGRAFT_TEST", "kept")
    runner = stand_in(tmp_path, "answer(Output=[json.dumps([dict(os.environ)])], Errors=[])")
    (environment,) = runner.run("find")
    assert environment["BOOTGRAFT_TEST"] == "kept"
    assert "PSModulePath" not in environment


def test_the_request_lies_in_a_file_so_that_no_pipe_has_to_be_written_to(tmp_path: Path) -> None:
    """Python on Windows writes to a pipe without a timeout."""
    program = "import stat; found = stat.S_ISREG(os.fstat(0).st_mode)\n"
    runner = stand_in(tmp_path, program + "answer(Output=[json.dumps([{'x': found}])], Errors=[])")
    assert runner.run("find") == [{"x": True}]


def test_a_script_of_the_package_runs(tmp_path: Path) -> None:
    runner = stand_in(tmp_path, MODEL + FIND_MODEL + INTERPRET)
    assert runner.run("find") == [{"Id": "0f1e", "Name": "Büro 1", "Generation": 1, "State": "Off"}]


def test_an_error_of_a_script_carries_its_id_its_category_and_its_message(tmp_path: Path) -> None:
    runner = stand_in(tmp_path, MODEL + FAILING_MODEL + INTERPRET)
    with pytest.raises(ScriptError) as caught:
        runner.run("find")
    error = caught.value
    assert (error.script, error.error_id, error.category, error.detail) == (
        "find",
        "InvalidParameter,Microsoft.HyperV.PowerShell.Commands.GetVM",
        "InvalidArgument",
        "Der Computer \u00bbhv1\u00ab konnte nicht gefunden werden.",
    )
    assert "find failed on this computer: Der Computer" in str(error)


def test_noise_beside_the_answer_is_no_failure(tmp_path: Path) -> None:
    runner = stand_in(
        tmp_path,
        "print('WARNING: something'); print('#< CLIXML', file=sys.stderr)\n"
        "answer(Output=['[]'], Errors=[]); print('more'); sys.exit(3)",
    )
    assert runner.run("find") == []


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (
            "sys.exit('scripts are disabled on this system')",
            "gave no answer .* status 1 .*disabled",
        ),
        ("print('bootgraft-answer !')", "gave no answer .* 'bootgraft-answer !'"),
        ("print('bootgraft-answer e30')", "gave no answer"),
        ("print('x' * 9999)", r"gave no answer .*x\.\.\."),
        ("answer(Output=1)", "an answer of an unknown form"),
        ("answer(Output=[], Errors=[])", "put out 0 values"),
        ("answer(Output=['[]', '[]'], Errors=[])", "put out 2 values"),
        ("answer(Output=['{}'], Errors=[])", "an array of objects was expected"),
        ("answer(Output=['[1]'], Errors=[])", "an array of objects was expected"),
        ("answer(Output=['nonsense'], Errors=[])", "not JSON"),
    ],
)
def test_anything_but_one_array_of_objects_is_an_error(
    tmp_path: Path, program: str, words: str
) -> None:
    with pytest.raises(HostError, match=words):
        stand_in(tmp_path, program).run("find")


def test_a_process_that_takes_too_long_is_ended_itself(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    runner = stand_in(
        tmp_path, f"pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=r"within 2 s .* not known how far it came"):
        runner.run("change", timeout=2)
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_without_powershell_the_message_says_what_the_dot_is_for() -> None:
    runner = LocalRunner("/nonexistent/powershell.exe")
    with pytest.raises(HostError, match=r"No such file.*name the host: hyperv://HOST/VM"):
        runner.run("find")
    runner.close()


# What the launcher is to print, written out once.


def test_the_document_is_base64_of_utf_8(tmp_path: Path) -> None:
    document = {"Output": ['[{"Name":"ä"}]'], "Errors": []}
    text = base64.b64encode(json.dumps(document).encode()).decode()
    assert stand_in(tmp_path, f"print('bootgraft-answer {text}\\r')").run("find") == [{"Name": "ä"}]
