"""The writer of stored tables, and the tables of notebook 07: complete, and shown on the pages."""

import json
from pathlib import Path

import pandas as pd
import pytest
import results
import torch
from nets import lowering, picture
from torch import nn

from experiments import bench
from experiments.__main__ import experiments, main
from experiments.common import attacked
from experiments.tables import fill
from helpers.attack import Result
from helpers.base import Base, Classifier
from helpers.certificate import certify
from helpers.images import DATA
from helpers.tables import read_record, read_rows

FOLDER = DATA / "bench"


def test_a_table_goes_on_where_it_stopped_and_tells_what_made_it(tmp_path: Path) -> None:
    path, made = tmp_path / "t.csv", []

    def make(cell: dict) -> list[dict]:
        if cell["name"] == "stop" and len(made) < 3:
            raise KeyboardInterrupt
        made.append(cell["name"])
        return [{"value": 1 / 3, "none": None, "text": "NA"}]

    cells = [{"name": name, "eps": 8 / 255} for name in ("001", "NA", "stop")]
    fill(path, cells[:1], make)
    with pytest.raises(KeyboardInterrupt):
        fill(path, cells, make)
    assert made == ["001", "NA"]
    assert read_rows(path)[0] == {"name": "001", "eps": "0.0313725", "value": "0.333333", "none": "", "text": "NA"}
    made.append("an attack elsewhere")
    assert [row["name"] for row in fill(path, cells, make)] == ["001", "NA", "stop"]
    (entry,) = read_record(path)
    assert entry["rows"] == 3 and entry["precision"] == "float32" and entry["torch"] == torch.__version__
    path.with_suffix(".json").write_text(json.dumps([entry | {"precision": "bfloat16"}]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"t.csv was made in bfloat16, .* move it away"):
        fill(path, cells, make)


def test_an_interrupted_attack_is_never_stored() -> None:
    result = Result.__new__(Result)
    result.interrupted = False
    assert result.completed() is result
    result.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        result.completed()


def test_every_experiment_is_listed_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(experiments())
    assert {"bench", "ch04_sweeps", "ch07_limits", "peers"} <= set(experiments()) and "common" not in experiments()
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)
    with pytest.raises(SystemExit, match="'ch' names"):
        main(["ch"])


def test_a_row_of_strength_is_judged_on_the_file_and_the_attack_is_made_once(tmp_path: Path) -> None:
    base = lowering(90.5)
    head = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    head(torch.zeros(1, *base.feature_shape))
    cell = {"eps": 8, "at most": 40, "picture": "near"}
    row = bench.measure(base, Classifier(base, head, "abc"), picture(96.0), cell, tmp_path)
    assert row["left"] == row["norm ratio"] == row["total variation"] == 0 < row["margin"]
    for steps in (40, 400):  # it was done early, and steps do not depend on the limit
        again = attacked(base, "near", picture(96.0), eps=8, steps=steps, folder=tmp_path)
        assert again[1:] == (row["steps"], row["seconds"])
    attacked(base, "near", picture(96.0), eps=8, steps=row["steps"] - 1, folder=tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_every_attack_of_the_table_kept_its_rules() -> None:
    strength = pd.read_csv(FOLDER / "strength.csv")
    assert not strength.duplicated(["eps", "at most", "picture"]).any()
    assert (strength.steps <= strength["at most"]).all()
    assert ((strength.left == 0) == (strength.margin >= 0)).all()
    assert (strength[strength.left == 0]["norm ratio"] == 0).all()


def test_the_blinded_files_are_exactly_zero_and_what_the_table_says(vgg: Base) -> None:
    table = pd.read_csv(FOLDER / "visibility.csv").set_index(["method", "picture"])
    files = sorted((DATA / "blind").glob("*.png"))
    assert [path.name for path in files] == sorted(path.name for path in (DATA / "images").glob("*.png"))
    for path in files:
        found, row = certify(vgg, path, DATA / "images" / path.name), table.loc["least visible", path.stem]
        stored = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert found.zero and stored["zero"] and found.linf == stored["linf"] == row.linf
        assert found.ssim == pytest.approx(row.ssim, abs=1e-4)
    assert (table.margin[table.left == 0] > 0).all() and table.loc["8/255"].linf.max() <= 8


def test_the_pages_show_the_tables() -> None:
    readme = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    assert "<!-- results -->" in readme and results.readme(readme) == readme
    assert (FOLDER.parents[1] / "docs" / "results.md").read_text(encoding="utf-8") == results.page()


def test_a_stored_table_says_what_made_each_row() -> None:
    for path in FOLDER.glob("*.csv"):
        made = read_record(path)
        assert sum(entry["rows"] for entry in made) == len(read_rows(path)), path
        assert {entry["precision"] for entry in made} in ({"float32"}, {"bfloat16"}), path


@pytest.mark.parametrize("kind", ["", "_bfloat16"])
def test_each_recipe_kept_the_budget_and_its_steps_are_stored(kind: str) -> None:
    rows, steps = (pd.read_csv(FOLDER / f"{name}{kind}.csv") for name in ("peers", "peers_steps"))
    assert not rows.duplicated(["recipe", "photo"]).any() and rows.linf.max() <= 8
    assert len(steps.groupby(["recipe", "photo"])) == len(rows)
