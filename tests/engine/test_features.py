"""What whisper.cpp was built for: of a build for a GPU there is none here: it is made up."""

import subprocess
import sys

import pytest

from whisperd.doctor.installation import _features
from whisperd.engine import features
from whisperd.engine.features import Build, ggml_libraries

CPU = "WHISPER : COREML = 0 | OPENVINO = 0 | CPU : SSE3 = 1 | AVX2 = 1 | REPACK = 1 |"
MAPS = """
7f1c-7f1d r-xp 00000000 fe:00 77 /x/site-packages/pywhispercpp.libs/libggml-ab3d824a.so.0.13.1
7f1d-7f1e r-xp 00000000 fe:00 78 /x/site-packages/pywhispercpp.libs/libggml-base-319ad4fb.so.0.13.1
7f1e-7f1f r-xp 00000000 fe:00 79 /x/site-packages/pywhispercpp.libs/libggml-cpu-67036419.so.0.13.1
7f1f-7f20 r-xp 00000000 fe:00 80 /x/site-packages/{}
"""


@pytest.mark.parametrize("name", ["cuda", "hip", "vulkan", "sycl", "metal"])
@pytest.mark.parametrize("file", ["libggml-{}.so", "pywhispercpp.libs/libggml-{}-6703ab19.so.0.13.1"])
def test_a_build_for_a_gpu_is_known_by_its_library(name, file):
    """Vulkan's and SYCL's stand nowhere in what whisper.cpp says of itself."""
    assert Build(CPU, ggml_libraries(MAPS.format(file.format(name)))).for_gpu


@pytest.mark.parametrize("name", ["CUDA", "ROCm", "Metal"])
def test_so_it_is_by_what_it_says(name):
    assert Build(f"{CPU} {name} : ARCHS = 860 | PEER_MAX_BATCH_SIZE = 128 |").for_gpu


@pytest.mark.parametrize("file", ["libggml-blas.so", "libggml-cpu-haswell.so", "libvulkan.so.1"])
def test_no_other_library_makes_it_one(file):
    assert not Build(CPU, ggml_libraries(MAPS.format(file))).for_gpu


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("libggml-blas.so", "BLAS CPU: SSE3 AVX2 REPACK"),
        ("libggml-vulkan.so", "CPU VULKAN: SSE3 AVX2 REPACK, no BLAS"),
        ("libopenblas.so", "CPU: SSE3 AVX2 REPACK, no BLAS"),
    ],
)
def test_the_doctor_names_what_the_build_has(file, said):
    assert _features(Build(CPU, ggml_libraries(MAPS.format(file)))) == said


DEVICE = """
import ctypes, sys
from whisperd.engine.choosing import device
from whisperd.engine.protocol import Settings

for library in sys.argv[1:]:
    ctypes.CDLL(library)
settings = Settings(model="", model_sha256="", daemon_pid=1, threads=1)
print(device(settings))
"""


@pytest.mark.parametrize(("libraries", "device"), [([], "cpu"), (["libggml-vulkan.so"], "gpu")])
def test_a_worker_knows_where_its_model_is_by_what_it_has_loaded(tmp_path, libraries, device):
    paths = [tmp_path / name for name in libraries]
    for path in paths:
        subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", path, "/dev/null"], check=True)
    told = subprocess.run([sys.executable, "-c", DEVICE, *paths], check=True, capture_output=True, text=True)

    assert told.stdout.strip() == device


def test_the_build_that_is_here_says_what_it_is():
    built = features.build()

    assert built.says.startswith("WHISPER : ")
    assert {"base", "cpu"} <= built.libraries
    assert not built.for_gpu
