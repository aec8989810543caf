"""A configuration that cannot be used is one line, exit code 2, before torch is imported."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dm2core.config import ConfigError, cell_config, dump_config, load_config
from dm2core.methods import METHOD_NAME
from tests.shell.conftest import ROOT

TRAIN = ["train", "--map", "3m", "--method", "ippo", "--seed", "1", "--out", "out"]


def dm2(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process that fails if torch comes in."""
    code = (
        "import sys; from dm2core.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *args], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("ppo.lrr=0.1", ["dm2: --set: ppo.lrr: unknown key", "did you mean 'lr'", "gae_lambda"]),
        ("budget.env_steps=many", ["budget.env_steps", "integer", "'many'"]),
        ("budget.env_steps=-5", ["budget.env_steps", "greater than 0", "-5"]),
        (
            "maps.3mm={episodes_per_update: 4, ppo_epochs: 1, clip_eps: 0.1, imitation_coef: 0.1}",
            ["3mm", "'3m'", "known"],
        ),
        ("demo_ablation.maps=[5m_v_6m]", ["5m_v_6m", "did you mean '5m_vs_6m'", "3s_vs_4z"]),
        ("seeds=[]", ["seeds", "at least 1"]),
        ("seeds=null", ["seeds", "list"]),
        ("expert_seeds=[1]", ["expert_seeds", "3s_vs_3z needs 3"]),
        ("seeds=[1, 1]", ["seeds", "twice"]),
        ("profile=author", ["profile", "did you mean 'authors'"]),
        ("switches.absorbing_paddin=true", ["absorbing_paddin", "did you mean 'absorbing_padding'"]),
        ("scale=huge", ["scale", "huge", "campaign, paper, quick, smoke"]),
        ("ppo.gamma=.nan", ["ppo.gamma"]),
        ("budget.maps={3mm: {env_steps: 5}}", ["budget.maps", "3mm", "'3m'"]),
        ("budget.maps={3m: {seeds: 9}}", ["budget.maps.3m.seeds", "9", "3"]),
        ("ppo.lr=1e-3", ["ppo.lr", "'1e-3'", "YAML takes that for text, write 1.0e-3"]),
        ("ppo.lr=2.5E3", ["ppo.lr", "write 2.5e+3"]),
        ("maps.3m.clip_eps=yes", ["maps.3m.clip_eps", "number", "True"]),
    ],
)
def test_one_line_names_key_and_remedy(changed: str, words: list[str], project: Path) -> None:
    done = dm2(*TRAIN, "--set", changed, cwd=project)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds: [112358, 1285842, 78590, 119527, 122529]", "", ["seeds", "missing"]),
        ("gamma: 0.99", "gamma: 0.99\n  gamma: 0.98", ["gamma", "twice", "line"]),
        ("gamma: 0.99", "gamma: [0.99", ["not valid YAML", "line"]),
        ("gamma: 0.99", "\tgamma: 0.99", ["not valid YAML"]),
    ],
)
def test_damaged_files_are_one_line(old: str, new: str, words: list[str], project: Path) -> None:
    path = project / "config" / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    quick = project / "config" / "scale" / "quick.yaml"
    quick.write_text(
        "\n".join(line for line in quick.read_text().splitlines() if not line.startswith("seeds"))
    )
    done = dm2(*TRAIN, cwd=project)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr


def test_a_wrong_value_is_said_of_the_file_that_has_it(project: Path) -> None:
    main, quick = (project / "config" / name for name in ("config.yaml", "scale/quick.yaml"))
    mine = {"maps": {"2s3z": {"episodes_per_update": 4}}}
    for path, old, new, given, said in (
        (main, "gamma: 0.99", "gamma: 0.99\n  gama: 0.99", {}, f"{main}: ppo.gama: unknown key"),
        (main, "gamma: 0.99", "", {"ppo": {"lr": 0.1}}, f"{main}: ppo.gamma: missing"),
        (quick, "minibatches: ", "minibatchs: ", {}, f"{quick}: ppo.minibatchs: unknown key"),
        (quick, "minibatches: ", "minibatches: -", {"ppo": {"lr": 0.1}}, f"{quick}: ppo.minibatches: input"),
        (
            quick,
            "minibatches: ",
            "minibatches: -",
            {"ppo": {"minibatches": -1}},
            "mine: ppo.minibatches: input",
        ),
        (main, "", "", mine, "mine: maps.2s3z.ppo_epochs: missing"),
        (main, "", "", {"ppo": 3}, "mine: ppo: input"),
        (main, "", "", {"seeds": [1, 1]}, "seeds: [1, 1] holds a seed twice"),  # a fault of several keys
    ):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ConfigError) as error:
            load_config(main, given, "mine")
        assert str(error.value).startswith(said)
        path.write_text(text)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["train", "--map", "5m_v_6m", "--method", "ippo", "--seed", "1", "--out", "o"],
            ["5m_v_6m", "5m_vs_6m"],
        ),
        (
            ["train", "--map", "2s3z", "--method", "ippo", "--seed", "1", "--out", "o"],
            ["2s3z has no hyper-parameters", "--set 'maps.2s3z={episodes_per_update: ..., ppo_epochs: ..., "],
        ),
        (
            ["demos", "--map", "3mm", "--id", "ippo-q50_joint-concurrent", "--out", "o"],
            ["unknown map '3mm'", "did you mean '3m'?"],
        ),
        (
            ["replay", "--who", "kite", "--map", "3s_vs_3zz", "--out", "o.gif"],
            ["unknown map '3s_vs_3zz'", "did you mean '3s_vs_3z'?"],
        ),
        (
            ["evaluate", "--policy", "none", "--map", "3mm"],
            ["unknown map '3mm'", "did you mean '3m'?"],
        ),
        (["train", "--map", "3m", "--method", "ppo", "--seed", "1", "--out", "o"], ["'ppo'", "ippo, dm2"]),
        (
            ["train", "--map", "3m", "--method", "dm2", "--seed", "1", "--out", "o"],
            ["demos", "demonstration file"],
        ),
        (["train", "--map", "3m", "--method", "ippo", "--seed", "-1", "--out", "o"], ["seed", "-1"]),
        (["train", "--map", "3m", "--method", "ippo", "--seed", "x", "--out", "o"], ["--seed", "'x'"]),
        (["train", "--map", "3m"], ["--method", "--seed"]),
        (
            ["demos", "--map", "3m", "--id", "joint", "--experts", "e", "--out", "o"],
            ["'joint'", "ippo-q50_joint-concurrent"],
        ),
        (["trian"], ["trian"]),
        (["train", "--config", "none.yaml", *TRAIN[1:]], ["none.yaml", "no such file"]),
    ],
)
def test_wrong_usage_is_one_line(args: list[str], words: list[str], project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dm2core", *args], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["replay", "--who", "kitee", "--map", "3m", "--out", "o.gif"], 2, "--who kitee: neither a script"),
        (["evaluate", "--policy", "nowhere"], 65, "nowhere: no such policy file"),
    ],
)
def test_a_name_of_nothing_is_said_before_torch_is_imported(
    args: list[str], code: int, words: str, project: Path
) -> None:
    done = dm2(*args, cwd=project)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1 and words in done.stderr


def test_a_reader_that_is_gone_is_not_success(project: Path) -> None:
    for command in (["config"], ["status", "--json", "--set", "figures={}"]):  # more than a buffer, and less
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", "dm2core", *command],
            cwd=project,
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (75, b"")


def test_resolved_config_reads_back_to_itself(project: Path) -> None:
    config = load_config(project / "config" / "config.yaml", {"budget": {"env_steps": 77}})
    assert config.budget.env_steps == 77
    (project / "resolved.yaml").write_text(dump_config(config))
    assert load_config(project / "resolved.yaml") == config


def test_digest_changes_with_what_decides_numbers_and_with_nothing_else() -> None:
    path = ROOT / "config" / "config.yaml"

    def digest(**overrides: object) -> str:
        return cell_config(load_config(path, overrides), map_name="3m", method="ippo", seed=1).digest()

    base = digest()
    assert digest(seeds=[5, 6, 7]) == base
    assert digest(results="elsewhere") == base
    assert digest(ppo={"lr": 2e-3}) != base
    assert digest(switches={"terminal_row": False}) != base
    assert digest(maps={"3s_vs_3z": {"clip_eps": 0.3}}) == base
    assert (
        digest(maps={"3m": {"imitation_coef": 0.7}}, discriminator={"steps": 3}) == base
    )  # IPPO has neither


def test_methods_and_demonstrations_must_agree() -> None:
    config = load_config(ROOT / "config" / "config.yaml")
    with pytest.raises(ConfigError, match="takes no demonstrations"):
        cell_config(config, map_name="3m", method="ippo", seed=1, demos="ippo-q50_joint-concurrent")


def test_the_form_follows_the_size_that_a_name_changes() -> None:
    config = load_config(ROOT / "config" / "config.yaml")
    forms = {size: cell_config(config, map_name="3m", method=f"ippo+hidden_size={size}", seed=1).form
             for size in (20, 48)}  # fmt: skip
    assert forms == {20: "torch", 48: "fused"}
    fused = load_config(ROOT / "config" / "config.yaml", {"compute": "fused"})
    with pytest.raises(ConfigError, match="hidden_size that 16 divides, got 20 and"):
        cell_config(fused, map_name="3m", method="ippo+hidden_size=20", seed=1)


def test_a_changed_setting_is_a_name_that_the_workflow_takes() -> None:
    config = load_config(ROOT / "config" / "config.yaml")
    for text, lr in (("5.0e-4", 5e-4), ("0.001", 1e-3)):
        name = f"ippo+lr={text}"
        assert re.fullmatch(METHOD_NAME, name) and config.changed(name, "3m").ppo.lr == lr
    assert config.changed("ippo+value_clip=off", "3m").switches.value_clip == "off"
    for wrong in ("ippo+lr=1E-4", "ippo+lr", "ippo+lr=1/2", "ippo+"):
        with pytest.raises(ConfigError, match="changes are written"):
            config.changed(wrong, "3m")


@pytest.mark.parametrize(
    ("method", "unread"),
    [
        ("rmappo", ["lr", "value_coef", "minibatches", "clip_eps", "absorbing_padding", "imitation_reward"]),
        ("qmix", ["gamma", "clip_eps", "terminal_row"]),
        ("ippo", ["imitation_coef", "imitation_reward", "cloning.lr"]),
        ("gail_only", ["imitation_coef", "cloning.epochs"]),
        ("bc_ippo", ["imitation_coef", "imitation_reward"]),
    ],
)
def test_a_setting_that_moves_no_number_names_no_method(method: str, unread: list[str]) -> None:
    """Else a figure shows one curve under several names."""
    config = load_config(ROOT / "config" / "config.yaml")
    for name in unread:
        with pytest.raises(ConfigError, match=f"{method} does not read {name}"):
            config.changed(f"{method}+{name}=1", "3m")
