"""docs/engine/layernorm.md as its reader meets it: type what it says, see what it shows."""

from __future__ import annotations

import itertools
import math
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from llmc.engine import toolchain
from llmc.engine.process import Finished, run_quietly
from llmc.paths import shipped_dir
from tests.helpers.places import ROOT

PAGE = ROOT / "docs" / "engine" / "layernorm.md"
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")

# The page's functions and the engine's, on the same noise; main of the page is out of the way.
AGAINST_REFERENCE = r"""
#undef main
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/kernels.h"

void layernorm_forward(float *, float *, float *, const float *, const float *, const float *,
                       size_t, size_t);
void layernorm_backward(float *, float *, float *, const float *, const float *, const float *,
                        const float *, const float *, size_t, size_t);
void layernorm_backward_shared(float *, float *, float *, const float *, const float *,
                               const float *, const float *, const float *, size_t, size_t, size_t);
extern const struct Kernels kernels_plain;

enum { MOST = 33 * 129 };
struct Floats { float at[MOST]; };
static struct Floats inp, weight, bias, dout, start, page[3], engine[3];

static void noise(struct Floats *x, unsigned seed) {
  for (int i = 0; i < MOST; i++) {
    seed = seed * 1664525u + 1013904223u;
    x->at[i] = (float)(seed >> 8) / (float)(1 << 23) - 1;
  }
}

/* Returns 1, and says so, unless the three outputs of both sides agree. */
static int differ(const char *what, size_t N, size_t C) {
  for (int k = 0; k < 3; k++) {
    for (int i = 0; i < MOST; i++) {
      const double ours = page[k].at[i], theirs = engine[k].at[i];
      if (!(fabs(ours - theirs) <= 1e-6 * fmax(1, fabs(theirs)))) {
        printf("%s N %zu C %zu output %d at %d: %.9g, plain.c %.9g\n", what, N, C, k, i, ours,
               theirs);
        return 1;
      }
    }
  }
  return 0;
}

static void restart(struct Floats outputs[3]) {
  for (int k = 0; k < 3; k++) outputs[k] = start;
}

int main(void) {
  const size_t rows[] = {1, 2, 7, 33}, channels[] = {2, 3, 16, 65, 129};
  const struct Kernels *kernels = &kernels_plain;
  struct Workers workers = {0};
  noise(&inp, 1), noise(&weight, 2), noise(&bias, 3), noise(&dout, 4), noise(&start, 5);
  int failed = 0;
  for (int i = 0; i < 4; i++) {
    for (int j = 0; j < 5; j++) {
      const size_t N = rows[i], C = channels[j];
      restart(page), restart(engine);
      layernorm_forward(page[0].at, page[1].at, page[2].at, inp.at, weight.at, bias.at, N, C);
      kernels->layernorm_forward(&workers, (struct LayerNormForward){
          .out = array_of(engine[0].at), .mean = engine[1].at, .rstd = engine[2].at, .inp = inp.at,
          .weight = weight.at, .bias = bias.at, .N = N, .C = C});
      failed |= differ("forward", N, C);
      const struct Floats mean = page[1], rstd = page[2];
      restart(engine);
      kernels->layernorm_backward(&workers, (struct LayerNormBackward){
          .dinp = engine[0].at, .dweight = engine[1].at, .dbias = engine[2].at, .dout = dout.at,
          .inp = inp.at, .mean = mean.at, .rstd = rstd.at, .weight = weight.at, .N = N, .C = C});
      restart(page);
      layernorm_backward(page[0].at, page[1].at, page[2].at, dout.at, inp.at, mean.at, rstd.at,
                         weight.at, N, C);
      failed |= differ("backward", N, C);
      restart(page);
      layernorm_backward_shared(page[0].at, page[1].at, page[2].at, dout.at, inp.at, mean.at,
                                rstd.at, weight.at, N, C, 3);
      failed |= differ("backward_shared", N, C);
    }
  }
  return failed;
}
"""


def blocks(*languages: str) -> list[tuple[str, str]]:
    """Return the page's code blocks in these languages, in order, each with its language."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    return [(language, code) for language, code in found if language in languages]


def shown_after(language: str) -> str:
    """Return what the page shows as the output of its blocks in one language."""
    code = blocks("python", "c", "sh", "output")
    pairs = itertools.pairwise(code)
    return "".join(
        text for before, (kind, text) in pairs if (before[0], kind) == (language, "output")
    )


def assert_same(printed: str, shown: str) -> None:
    """Hold two texts to the same words, and the same numbers but for rounding."""
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split(), printed
    for ours, theirs in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        assert math.isclose(float(ours), float(theirs), rel_tol=1e-5, abs_tol=1e-5), printed


@pytest.fixture(scope="module")
def environment(cache: Path) -> dict[str, str]:
    """The reader's environment: this Python is ``python``, and zig works in the tests' cache."""
    zig = str(cache / "zig")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {"PATH": path, "ZIG_GLOBAL_CACHE_DIR": zig, "ZIG_LOCAL_CACHE_DIR": zig}


def shell(command: str, folder: Path, environment: dict[str, str]) -> Finished:
    """Run shell commands in ``folder``, stopping at the first that fails."""
    return run_quietly(["sh", "-e", "-c", f'cd "$1"\n{command}', "sh", str(folder)], environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """Return the folder that the page's first commands fill with its programs."""
    root = tmp_path_factory.mktemp("reader")
    (root / "docs" / "engine").mkdir(parents=True)
    shutil.copy(PAGE, root / "docs" / "engine")
    (_, extract), _ = blocks("sh")
    done = shell(extract, root, environment)
    assert done == Finished(0, "")
    return root / "build"


def test_the_page_takes_itself_apart(folder: Path) -> None:
    for language, name in (("python", "layernorm.py"), ("c", "layernorm.c")):
        assert (folder / name).read_text() == "".join(code for _, code in blocks(language))


def test_the_reader_sees_what_the_page_shows(folder: Path, environment: dict[str, str]) -> None:
    pytest.importorskip("torch")
    _, (_, commands) = blocks("sh")
    derive, build, check = commands.splitlines()

    done = shell(derive, folder, environment)
    assert done.code == 0, done.output
    assert_same(done.output, shown_after("python"))

    done = shell(build, folder, environment)
    assert done == Finished(0, "")
    done = shell(check, folder, environment)
    assert done.code == 0, done.output
    assert_same(done.output, shown_after("sh"))

    numbers = (folder / "layernorm.bin").read_bytes()
    for wrong in (b"", numbers[:-1], numbers + b"\0", b"\0" * 12 + numbers[12:]):
        (folder / "layernorm.bin").write_bytes(wrong)
        done = shell(check, folder, environment)
        assert (done.code, done.output.count("error: ")) == (1, 1), done.output


def test_the_pages_c_computes_what_the_engine_does(
    folder: Path, environment: dict[str, str]
) -> None:
    native = shipped_dir("native")
    (folder / "against.c").write_text(AGAINST_REFERENCE)
    loops = [native / name for name in ("kernels/plain.c", "kernels/plain_decode.c", "base/util.c")]
    sources = [folder / "layernorm.c", folder / "against.c", *loops]
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-Dmain=page_main", f"-I{native}"]
    program = folder / "against"
    argv = [*toolchain.zig().command, *flags, *map(str, sources), "-o", str(program), "-lm"]
    assert run_quietly(argv, environment) == Finished(0, "")
    assert run_quietly([str(program)]) == Finished(0, "")


def test_the_pages_links_lead_somewhere() -> None:
    text = PAGE.read_text("utf-8")
    titles = [
        re.sub(r"[^\w\- ]", "", title.lower()) for title in re.findall(r"^## (.+)$", text, re.M)
    ]
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in [title.replace(" ", "-") for title in titles]
        elif not target.startswith("https://"):
            assert (PAGE.parent / target).exists(), target
