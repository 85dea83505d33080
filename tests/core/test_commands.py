"""The command lines on the demo model: what they leave, and one clear line where an argument is wrong."""

import json
from dataclasses import fields, replace
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from fastvideo_core import RequestError, SamplingRequest, WanModel, load_demo, measure
from fastvideo_core.__main__ import main
from fastvideo_core.attention import AttentionSettings
from fastvideo_core.attention.sparse import NABLASettings, SparseSchedule, STASettings, VSASettings
from fastvideo_core.commands.cases import (
    CACHES,
    OF_ATTENTION,
    OF_GUIDANCE,
    OF_REQUEST,
    OF_SPARSE,
    SPARSE,
    file_names,
    read_case,
)
from fastvideo_core.step_cache import DBCACHE_PRESETS, read_table
from fastvideo_core.wan.demo import FOLDER

PROMPT = "a red circle moving left over a teal background"
SHORT = ("--prompt", PROMPT, "--steps", "6", "--frames", "5", "--guidance-mode", "batched")


def frames_of(file: Path) -> list[av.VideoFrame]:
    with av.open(str(file)) as video:
        return list(video.decode(video=0))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, three cases."""
    folder = tmp_path_factory.mktemp("compared")
    cases = ("magcache threshold=0.2 max_skips=2", "gate=0.5", "dbcache threshold=0")
    arguments = [word for case in cases for word in ("--case", case)]
    assert main(["compare", "--demo", "t2v", *SHORT, "--seed", "1", "2", *arguments, "--output", str(folder)]) == 0
    return folder


def test_compare_leaves_a_video_of_each_run(compared: Path) -> None:
    videos = sorted(file.name for file in compared.glob("*.mp4"))
    runs = ("dbcache_threshold=0", "dense", "gate=0.5", "magcache_threshold=0.2_max_skips=2", "side_by_side")
    assert videos == [f"seed{seed}_{run}.mp4" for seed in (1, 2) for run in runs]
    frames, together = (frames_of(compared / f"seed1_{run}.mp4") for run in ("dense", "side_by_side"))
    assert [(frame.width, frame.height) for frame in (*frames, *together)] == [(64, 64)] * 5 + [(256, 80)] * 5


def test_compare_leaves_the_metrics_and_the_steps_as_pictures(compared: Path) -> None:
    plot, report = (Image.open(compared / f"{name}.png") for name in ("plot", "report"))
    assert plot.size == (720, 2 * 3 * 320)  # two seeds; PSNR, SSIM and motion
    assert report.width == 720 and report.height > 8 * 330  # two seeds; dense and three cases


def test_the_videos_show_what_was_made(compared: Path) -> None:
    model = load_demo()
    size = model.video_size(width=64, height=64, frames=5)
    request = SamplingRequest(steps=6, shift=5.0, guidance_scale=3.0, seed=2)
    made = measure(model, model.condition(PROMPT, "", size), size, request).frames
    shown = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in frames_of(compared / "seed2_dense.mp4")]
    difference = torch.stack(shown).permute(0, 3, 1, 2) / 255 - made
    assert difference.abs().mean() < 0.02  # H.264 keeps colour at half the resolution


def test_compare_writes_every_figure(compared: Path) -> None:
    data = json.loads((compared / "comparison.json").read_text())
    assert (data["prompt"], data["size"]["frames"], data["text_seconds"] > 0) == (PROMPT, 5, True)
    pairs = {(pair["case"].split()[0], pair["seed"]): pair for pair in data["pairs"]}
    assert list(pairs) == [(case, seed) for seed in (1, 2) for case in ("magcache", "gate=0.5", "dbcache")]
    (cache,) = pairs["magcache", 1]["accelerated"]["report"]["caches"]
    assert (cache["settings"]["threshold"], cache["settings"]["max_skips"]) == (0.2, 2)
    assert cache["blocks_ran"] < cache["blocks_asked"]
    assert pairs["magcache", 1]["dense"]["report"]["caches"] == []
    assert pairs["gate=0.5", 2]["accelerated"]["report"]["phases"][0]["calls"] == {"1": 3, "2": 3}
    for pair in pairs.values():
        low, high = pair["speed_up_between"]
        assert 0 < low <= high and (pair["speed_up"] is None) == (low <= 1 <= high)
        assert pair["dense"]["seconds"] > 0 and pair["dense"]["decode_seconds"] > 0
        assert len(pair["quality"]["frames"]) == 5 and len(pair["quality"]["motion"]["candidate"]["pairs"]) == 4


def test_a_case_that_changes_nothing_has_equal_frames(compared: Path) -> None:
    data = json.loads((compared / "comparison.json").read_text())
    neutral = [pair for pair in data["pairs"] if pair["case"] == "dbcache threshold=0"]
    assert [pair["quality"]["mean"] for pair in neutral] == [{"psnr": None, "ssim": 1.0, "lpips": None}] * 2
    moves = [pair["quality"]["motion"] for pair in neutral]
    assert [(told["ratio"], told["candidate"]) for told in moves] == [(1.0, told["reference"]) for told in moves]


def test_a_case_that_changes_nothing_is_not_told_to_be_faster(compared: Path) -> None:
    data = json.loads((compared / "comparison.json").read_text())
    assert [pair["speed_up"] for pair in data["pairs"] if pair["case"] == "dbcache threshold=0"] == [None, None]


def test_files_of_cases_have_names_of_their_own() -> None:
    texts = ("magcache", "dbcache threshold=0.2", "magcache", "vsa cube=4x4x4", "self_attention=a/../b")
    names = file_names([replace(read_case("gate=1"), text=text) for text in texts])
    assert names == ["magcache", "dbcache_threshold=0.2", "magcache_2", "vsa_cube=4x4x4", "self_attention=a_.._b"]


def test_the_table_has_a_row_for_each_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "--demo", "two experts", *SHORT, "--case", "magcache", "--output", str(tmp_path)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in out.splitlines() if line.startswith("|")]
    assert [row[0] for row in (rows[0], *rows[2:])] == ["case", "dense", "magcache"]
    figures = dict(zip(rows[0], rows[3], strict=True))
    assert figures["branch steps skipped"].endswith(" of 12") and figures["PSNR mean / worst"].endswith("dB")
    assert " - " in figures["speed-up"] and 0.5 < float(figures["motion to dense"]) < 2
    assert f"Videos, pictures and figures: {tmp_path}" in out


@pytest.mark.parametrize("kind", ["i2v", "two experts"])
def test_calibrate_leaves_a_table_that_magcache_finds(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = ["--image", str(FOLDER.parents[1] / "assets" / "demo_first_frame.png")] if kind == "i2v" else []
    model = ["--demo", kind, *image, *SHORT]
    assert main(["calibrate", *model, "--output", str(tmp_path / "tables")]) == 0
    (file,) = (tmp_path / "tables").iterdir()
    table = read_table(file)
    assert (file.stem, table.steps, table.shift) == (table.name, 6, 5.0)
    assert (FOLDER / file.name).is_file()  # the name is that of the weights, as the shipped table has it
    assert f"6 steps measured: {file}" in capsys.readouterr().out
    case = ["--case", "magcache mode=official", "--tables", str(tmp_path / "tables"), "--output", str(tmp_path / "compared")]
    assert main(["compare", *model, *case]) == 0  # official wants a table of 6 steps, which the shipped one has not


def test_single_files_are_the_demo_model_that_they_are(tmp_path: Path) -> None:
    files = {"transformer": "wan_t2v", "vae": "wan_vae", "text_encoder": "umt5"}
    loaded = WanModel.from_files(
        **{part: FOLDER / f"demo_{name}.safetensors" for part, name in files.items()},
        dtype=torch.float32,
        vae_dtype=torch.float32,
    )
    request = SamplingRequest(steps=4, shift=5.0, guidance_scale=3.0)
    videos = []
    for model in (loaded, load_demo()):
        size = model.video_size(width=64, height=64, frames=5)
        videos.append(measure(model, model.condition(PROMPT, "", size), size, request).frames)
    assert torch.equal(*videos)


MODEL = ("--demo", "t2v", "--prompt", "a circle")
FILES = tuple(word for name in ("transformer", "vae", "text-encoder") for word in (f"--{name}", "nowhere.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], "invalid choice: 'fly'"),
        (["compare", *MODEL], "the following arguments are required: --case"),
        (["compare", "--demo", "t3v", "--prompt", "x", "--case", "dbcache"], "argument --demo: invalid choice: 't3v'"),
        (["compare", *MODEL, "--case", "dbcache", "--device", "abacus"], "'abacus' is no device: use cpu, cuda"),
        (["compare", *MODEL, "--case", "dbcache", "--device", "cuda:99"], "there is no cuda:99 here"),
        (["compare", *MODEL, "--case", "dbcache", "--seed", "one"], "argument --seed: invalid int value: 'one'"),
        (["calibrate", *MODEL], "the following arguments are required: --output"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and "--help" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "x", "--case", "dbcache"], "Name one model: --demo t2v, or --model FOLDER, or"),
        ([*MODEL, *FILES, "--case", "dbcache"], "Name one model"),
        (["--prompt", "x", "--vae", "a.safetensors", "--case", "dbcache"], "missing: --transformer, --text-encoder."),
        (["--prompt", "x", *FILES, "--case", "dbcache"], "nowhere.safetensors does not exist"),
        (["--prompt", "x", "--model", "nowhere", "--case", "dbcache"], "nowhere has no model_index.json"),
        ([*MODEL, "--dtype", "float16", "--case", "dbcache"], "--dtype was given and the demo model runs in float32"),
        ([*MODEL, "--case", "teacache"], "the word 'teacache' is no setting"),
        ([*MODEL, "--case", ""], "is empty. It may begin with magcache, dbcache, cache-dit, vsa"),
        ([*MODEL, "--case", "dbcache magcache"], "the word 'magcache' is no setting: a case begins with at most one of"),
        ([*MODEL, "--case", "vsa threshold=1"], "sets threshold, which there is not."),
        ([*MODEL, "--case", "sta window=3x3"], "window=3x3: it must be three whole numbers, such as 4x4x4."),
        ([*MODEL, "--case", "vsa sparsity=2"], "VSA's sparsity is 2"),
        ([*MODEL, "--case", "self_attention=magic"], "magic"),
        ([*MODEL, "--case", "dbcache treshold=1"], "sets treshold, which there is not."),
        ([*MODEL, "--case", "dbcache threshold=much"], "threshold=much: it must be a number or none."),
        ([*MODEL, "--case", "dbcache swift"], "There is no preset 'swift': auto, quality, performance."),
        ([*MODEL, "--case", "magcache max_skips=1.5"], "max_skips=1.5: it must be a whole number."),
        ([*MODEL, "--case", "solver=magic"], "solver is 'magic': use one of euler, unipc"),
        ([*MODEL, "--case", "dbcache", "--width", "65"], "width is 65: it must be a multiple of 16 pixels"),
        ([*MODEL, "--case", "dbcache", "--steps", "0"], "steps is 0: a generation needs at least 1 step"),
        ([*MODEL, "--case", "dbcache", "--image", "nowhere.png"], "There is no image nowhere.png"),
        ([*MODEL, "--case", "dbcache", "--boundary", "0.9"], "asks for the experts high_noise, low_noise; the model has single"),
    ],
)
def test_a_comparison_that_cannot_run_is_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m fastvideo_core compare: ")
    assert words in line


def test_an_output_folder_that_cannot_be_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("a file")
    assert main(["calibrate", *MODEL, "--steps", "2", "--output", str(tmp_path / "taken")]) == 1
    assert "taken" in capsys.readouterr().err


def test_settings_of_a_case_are_read_as_what_they_are() -> None:
    request = SamplingRequest(steps=20, shift=5.0, guidance_scale=3.0)
    case = read_case("steps=10 shift=3 solver=euler gate=0.5 guidance_mode=sequential")
    changed = case.changed(request)
    assert (changed.steps, changed.shift, changed.solver) == (10, 3.0, "euler")
    assert (changed.guidance.gate, changed.guidance.mode, case.cache) == (0.5, "sequential", None)
    with pytest.raises(RequestError, match="gate is 2"):
        read_case("gate=2").changed(request)


def test_a_case_may_choose_attention_and_make_it_sparse() -> None:
    case = read_case("magcache vsa threshold=0.2 sparsity=0.7 dense_steps=2")
    assert case.cache is not None and case.attention is None
    assert case.sparse == SparseSchedule(settings=VSASettings(sparsity=0.7), low_noise=VSASettings(sparsity=0.7), dense_steps=2)
    window = read_case("sta window=3x5x5 kernel=gather").sparse
    assert window is not None and window.settings == STASettings(window=(3, 5, 5)) and window.kernel == "gather"
    nabla = read_case("nabla window=none").sparse
    assert nabla is not None and nabla.settings == NABLASettings(window=None)
    assert read_case("cross_attention=sdpa_math").attention == AttentionSettings(cross_attention="sdpa_math")


def test_no_setting_belongs_to_a_cache_and_to_sparse_attention() -> None:
    """Nobody could tell which one a case means."""
    of_caches = {field.name for kind in CACHES.values() for field in fields(kind)}
    of_sparse = {field.name for kind in SPARSE.values() for field in fields(kind)} | set(OF_SPARSE)
    others = {*OF_REQUEST, *OF_GUIDANCE, *OF_ATTENTION}
    assert not of_caches & of_sparse and not (of_caches | of_sparse) & others


def test_sparse_and_chosen_attention_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = ("vsa sparsity=0.5 kernel=gather dense_steps=1", "self_attention=sdpa_math")
    arguments = [word for case in cases for word in ("--case", case)]
    assert main(["compare", "--demo", "t2v", *SHORT, *arguments, "--output", str(tmp_path)]) == 0
    sparse, chosen = json.loads((tmp_path / "comparison.json").read_text())["pairs"]
    assert sparse["accelerated"]["report"]["sparse"][0]["variant"] == "VSA" and sparse["quality"]["mean"]["ssim"] < 1
    assert chosen["accelerated"]["report"]["attention"][0]["backend"] == "sdpa_math"
    assert chosen["quality"]["mean"]["ssim"] > 0.9999
    assert "attention computed" in capsys.readouterr().out


def test_a_case_may_name_a_preset_and_change_some_of_it() -> None:
    model = load_demo()
    size = model.video_size(width=64, height=64, frames=17)
    request = SamplingRequest(steps=20, shift=5.0, guidance_scale=3.0)

    def settings_of(text: str) -> object:
        generation = model.generate(request, model.condition(PROMPT, "", size), size, read_case(text).cache)
        return generation.cache.settings

    performance = DBCACHE_PRESETS["performance"]
    assert settings_of("dbcache performance") == performance
    changed = settings_of("dbcache performance taylor_order=0 max_skips=3 residuals_on_cpu=true")
    assert (changed.threshold, changed.taylor_order, changed.max_skips, changed.residuals_on_cpu) == (
        performance.threshold, 0, 3, True,
    )  # fmt: skip
    assert settings_of("dbcache threshold=none").threshold is None
    assert settings_of("cache-dit threshold=0.1").threshold == 0.1
    assert settings_of("magcache low_noise_retention=none mode=nearest").mode == "nearest"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["tune", "--ssim", "2"], "The wanted SSIM is 2.0: it lies between 0 and 1"),
        (["tune", "--ssim", "nan"], "The wanted SSIM is nan"),
        (["tune", "--cache", "magcache", "--width", "32", "--boundary", "0.9"], "asks for the experts high_noise, low_noise"),
        (
            ["compare", "--case", "self_attention=sageattention_2"],
            "The attention backend sageattention_2 (SageAttention 2) cannot run",
        ),
        (["compare", "--case", "sta window=3x3x3 kernel=fast"], "kernel is 'fast': use one of flex, gather"),
        (["compare", "--case", "magcache mode=official"], "official"),
        (["compare", "--case", "cache-dit first_blocks=9"], "leave none of the network's 4 blocks"),
    ],
)
def test_what_cannot_run_is_told_before_the_dense_run(
    command: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ["--steps", "5", "--frames", "5"]
    assert main([command[0], *MODEL, *steps, *command[1:], "--output", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert words in told.err
    assert told.out == "" and not list((tmp_path / "out").glob("*"))
