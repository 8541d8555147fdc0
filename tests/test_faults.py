"""What libraries really say when a disk is full or memory runs out, in words for users."""

import errno
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from google.protobuf.message import EncodeError
from pydantic import TypeAdapter, ValidationError

from offramp.errors import InputError
from offramp.faults import explain_fault, os_error

SAID = [
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: bad allocation"),
    RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 4096"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a primitive"),
    RuntimeError("can't start new thread"),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]


@pytest.mark.parametrize("error", SAID, ids=str)
def test_memory_that_ran_out_is_told_whoever_says_it(error):
    found = explain_fault(error, "a smaller --crop needs less")
    assert found.startswith("memory ran out; a smaller --crop needs less (")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SystemError("error return without exception set"), "a library failed and did not say why"),
        (EncodeError("Failed to serialize proto"), "a library failed and did not say why"),
        (BrokenProcessPool("A process in the process pool was terminated abruptly"), "ended from outside"),
    ],
)
def test_what_only_looks_like_memory_is_told_as_that(error, words):
    found = explain_fault(error, "--workers 1 needs less")
    assert words in found
    assert "--workers 1 needs less" in found


def test_numpy_and_torch_say_so_themselves():
    torch = pytest.importorskip("torch")
    for allocate in (lambda: np.empty(1 << 60, np.uint8), lambda: torch.empty(1 << 60, dtype=torch.uint8)):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            allocate()
        assert "memory ran out" in explain_fault(caught.value, "")


def test_a_fault_is_found_behind_what_was_made_of_it():
    def load():
        try:
            np.empty(1 << 60, np.uint8)
        except MemoryError as error:
            raise InputError("not records: make them again") from error

    with pytest.raises(InputError) as caught:
        load()
    assert explain_fault(caught.value, "close other programs").startswith("memory ran out; close other programs")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/a.png"), "out/a.png: the disk is full; free some space"),
        (OSError(errno.EROFS, "Read-only file system"), "can only be read"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_a_disk_that_takes_nothing_is_told(error, words):
    assert words in explain_fault(error, "")


@pytest.mark.parametrize("error", [ValueError("a bad shape"), OSError(errno.ENOENT, "No such file"), KeyError(28)], ids=repr)
def test_other_errors_are_no_faults(error):
    assert explain_fault(error, "") is None


def test_the_systems_error_in_a_librarys_words():
    assert os_error(RuntimeError("I/O error: denied (os error 13)")).errno == errno.EACCES
    assert os_error(RuntimeError("28")) is None


def test_what_somebody_gave_is_not_written_out_to_look_for_faults_in_it():
    asked = []

    class Endless:
        """As a plan of a few aliases in YAML: its text would take all memory."""

        def __repr__(self):
            asked.append(self)
            return "endless"

    with pytest.raises(ValidationError) as failed:
        TypeAdapter(int).validate_python(Endless())
    wrapped = ValueError("a number is wanted")
    wrapped.__cause__ = failed.value
    assert explain_fault(wrapped, "") is None
    assert not asked
