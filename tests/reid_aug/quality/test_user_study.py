"""The user study's page, clicked through in a browser, and the results of several raters put together."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reid_aug import images
from reid_aug.cli import main
from reid_aug.quality.user_study import FORMAT, merge, write_study


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Real images are red, generated ones blue."""
    for name, colour in (("real", (200, 0, 0)), ("fake", (0, 0, 200))):
        for i in range(8):
            image = np.full((16, 8, 3), colour, np.uint8)
            image[i] = 255
            images.write(image, tmp_path / name / ("jpg" if i % 2 else "") / f"{name}{i}.{'jpg' if i % 2 else 'png'}")
    return tmp_path / "real", tmp_path / "fake"


def trials(page: Path) -> list[dict[str, Any]]:
    line = next(line for line in page.read_text().splitlines() if line.startswith("const study = "))
    return json.loads(line.removeprefix("const study = ").removesuffix(";"))["trials"]


def test_the_page_holds_everything_and_names_no_network(folders: tuple[Path, Path], tmp_path: Path) -> None:
    page = write_study(*folders, tmp_path / "study", count=5, practice=2)
    text, shown = page.read_text(), trials(page)
    assert "http" not in text.replace("http-equiv", "") and [p.name for p in page.parent.iterdir()] == ["index.html"]
    assert sum(t["real"] for t in shown) == 5 and len({t["image"] for t in shown}) == len(shown) == 10
    assert len({t["real"] for t in shown[:5]}) == 2  # in a random order
    assert all(t["data"].startswith("iVBOR") for t in shown)  # PNG, whatever the files were
    assert write_study(*folders, tmp_path / "again", count=5, practice=2).read_text() == text
    assert write_study(*folders, tmp_path / "other", count=5, practice=2, seed=1).read_text() != text


def test_images_of_all_suffixes_are_sampled_and_hidden_files_are_not(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for folder in folders:
        for path in list(folder.glob("*.png")):
            Image.open(path).save(path.with_suffix(".bmp"))
            path.unlink()
        (folder / "._x.jpg").write_bytes(b"what macOS leaves")
    shown = trials(write_study(*folders, tmp_path / "study", count=8, practice=2))
    assert len(shown) == 16 and {Path(t["image"]).suffix for t in shown} == {".bmp", ".jpg"}


def test_the_papers_counts_are_the_default(tmp_path: Path) -> None:
    for name, base in (("real", 0), ("fake", 100)):
        for i in range(60):
            images.write(np.full((4, 2, 3), base + i, np.uint8), tmp_path / name / f"{name}{i}.png")
    shown = trials(write_study(tmp_path / "real", tmp_path / "fake", tmp_path / "study"))
    assert [sum(t["real"] == kind for t in shown) for kind in (True, False)] == [55, 55]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--count", "9"], "holds 8 images, 9 are wanted"),
        (["--count", "3", "--practice", "6"], "practice is less than all 6 images, got 6"),
        (["--count", "0"], "count"),
        (["--count", "3", "--seconds", "0", "--practice", "1"], "seconds"),
        (["--count", "3", "--seconds", "inf", "--practice", "1"], "seconds: input should be a finite number, got inf"),
        (["--count", "3", "--seconds", "nan", "--practice", "1"], "seconds: input should be a finite number, got nan"),
        (["--count", "3", "--seconds", "3e6", "--practice", "1"], "seconds: input should be less than or equal to 2147483"),
        (["--count", "3", "--seed", "-1", "--practice", "1"], "seed: input should be greater than or equal to 0, got -1"),
    ],
)
def test_bad_studies_are_refused(
    options: list[str], complaint: str, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["user-study", *map(str, folders), "--out", str(tmp_path / "study"), *options]) == 2
    assert complaint in capsys.readouterr().err and not (tmp_path / "study").exists()


def test_sizes_would_give_it_away(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for path in folders[1].glob("*.png"):
        images.write(np.zeros((20, 8, 3), np.uint8), path)
    with pytest.raises(ValueError, match="images of a study have one size"):
        write_study(*folders, tmp_path / "study", count=8, practice=2)
    with pytest.raises(NotADirectoryError, match="no folder at"):
        write_study(tmp_path / "none", folders[1], tmp_path / "study")


def rating(path: Path, rater: str, answers: str, study: str = "abc", **more: Any) -> Path:
    """Answers as letters: R and G said of a real image, r and g said of a generated one."""
    rows = [{"image": f"{i}.png", "real": a.isupper(), "said_real": a in "Rr", "seconds": 1.0} for i, a in enumerate(answers)]
    path.write_text(json.dumps({"format": FORMAT, "study": study, "rater": rater, "answers": rows, **more}))
    return path


class TestMerge:
    def test_by_hand(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        files = [rating(tmp_path / "a.json", "a", "RRRGgggr"), rating(tmp_path / "b.json", "b", "RGrr")]
        assert main(["user-study-merge", *map(str, files), "--out", str(tmp_path / "all.json")]) == 0
        merged = json.loads((tmp_path / "all.json").read_text())
        assert merged["R2G"]["mean"] == pytest.approx((0.25 + 0.5) / 2) and merged["G2R"]["mean"] == pytest.approx((0.25 + 1.0) / 2)
        assert merged["R2G"]["std"] == pytest.approx(np.std([0.25, 0.5], ddof=1))
        assert "2 raters: R2G 37.5 % ± 17.7, G2R 62.5 % ± 53.0" in capsys.readouterr().out

    def test_one_rater_of_one_kind(self, tmp_path: Path) -> None:
        assert merge([rating(tmp_path / "a.json", "a", "RRG")]) == "1 rater: R2G 33.3 %, G2R –"

    @pytest.mark.parametrize(
        ("second", "complaint"),
        [
            ({"rater": "b", "study": "other"}, "of one study, got abc, other"),
            ({"rater": "a"}, "every rater counts once, a is there twice"),
            ({"rater": "b", "format": "something"}, "no result of a user study: format"),
            ({"rater": "b", "extra": 1}, "unknown key 'extra'"),
        ],
    )
    def test_what_does_not_belong_together(self, second: dict[str, Any], complaint: str, tmp_path: Path) -> None:
        files = [rating(tmp_path / "a.json", "a", "RG"), rating(tmp_path / "b.json", **{"answers": "RG", **second})]
        with pytest.raises(ValueError, match=complaint):
            merge(files)

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        (tmp_path / "text.json").write_text("hello")
        with pytest.raises(ValueError, match="no result of a user study"):
            merge([tmp_path / "text.json"])
        with pytest.raises(FileNotFoundError):
            merge([tmp_path / "none.json"])
        with pytest.raises(ValueError, match="answered nothing"):
            merge([rating(tmp_path / "a.json", "a", "")])

    def test_broken_json_is_not_echoed(self, tmp_path: Path) -> None:
        for text in ("hello", '{"answers": [' + "1, " * 50_000, "x" * 100_000):
            (tmp_path / "a.json").write_text(text)
            with pytest.raises(ValueError, match="a.json is no result of a user study: invalid JSON: .* at line 1") as caught:
                merge([tmp_path / "a.json"])
            assert len(str(caught.value)) < 300 + len(str(tmp_path)) and ": :" not in str(caught.value)

    def test_long_values_are_cut(self, tmp_path: Path) -> None:
        for more in ({"format": "x" * 9000}, {"x" * 9000: 1}, {"answers": ["x" * 9000]}):
            path = rating(tmp_path / "a.json", "a", "RG")
            path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
            with pytest.raises(ValueError, match="x{20}") as caught:
                merge([path])
            assert len(str(caught.value)) < 400 + len(str(tmp_path)), more.keys()

    @pytest.mark.parametrize(
        ("answer", "complaint"),
        [
            ({"seconds": float("nan")}, "answers.1.seconds: .*finite"),
            ({"seconds": float("inf")}, "answers.1.seconds: .*finite"),
            ({"seconds": -0.5}, "answers.1.seconds: .*greater than or equal to 0, got -0.5"),
            ({"seconds": "1.0"}, "answers.1.seconds: .*valid number"),
            ({"real": "yes"}, "answers.1.real: .*valid boolean, got 'yes'"),
            ({"real": 1}, "answers.1.real: .*valid boolean, got 1"),
            ({"said_real": "true"}, "answers.1.said_real: .*valid boolean"),
            ({"image": "0.png"}, "every image is answered once, the real image '0.png' is there 2 times"),
        ],
    )
    def test_answers_that_are_none(self, answer: dict[str, Any], complaint: str, tmp_path: Path) -> None:
        kept = json.loads(rating(tmp_path / "a.json", "a", "RGR").read_text())
        kept["answers"][1] |= answer
        (tmp_path / "a.json").write_text(json.dumps(kept))
        with pytest.raises(ValueError, match=complaint):
            merge([tmp_path / "a.json"])

    def test_a_real_and_a_generated_image_of_one_name(self, tmp_path: Path) -> None:
        kept = json.loads(rating(tmp_path / "a.json", "a", "Rg").read_text())
        kept["answers"][1]["image"] = kept["answers"][0]["image"]
        (tmp_path / "a.json").write_text(json.dumps(kept))
        assert merge([tmp_path / "a.json"]) == "1 rater: R2G 0.0 %, G2R 0.0 %"

    def test_a_byte_order_mark(self, tmp_path: Path) -> None:
        path = rating(tmp_path / "a.json", "a", "RRG")
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert merge([path]) == "1 rater: R2G 33.3 %, G2R –"


def test_images_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for i, name in enumerate(("real/a/1.png", "real/b/1.png", "fake/a/1.png", "fake/b/1.png")):
        images.write(np.full((4, 2, 3), i, np.uint8), tmp_path / name)
    shown = trials(write_study(tmp_path / "real", tmp_path / "fake", tmp_path / "study", count=2, practice=1))
    assert sorted((t["real"], t["image"]) for t in shown) == [(kind, f"{x}/1.png") for kind in (False, True) for x in "ab"]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Chromium without a window."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    session.set_window_size(900, 900)
    yield session
    session.quit()


def test_a_rater_clicks_through_it(browser: Any, folders: tuple[Path, Path], tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    page = write_study(*folders, tmp_path / "study", count=4, practice=2, seconds=0.3)
    shown = trials(page)
    browser.get(page.as_uri())
    assert "8 small pictures" in browser.find_element(By.ID, "start").text and "0.3 seconds" in browser.find_element(By.ID, "start").text
    body = browser.find_element(By.TAG_NAME, "body")
    browser.find_element(By.ID, "begin").click()
    wait = WebDriverWait(browser, 10, poll_frequency=0.02)
    answers = []
    for number, trial in enumerate(shown):
        wait.until(lambda b, n=number: f"picture {n + 1} of 8" in b.find_element(By.ID, "state").text)
        assert ("Practice" in browser.find_element(By.ID, "state").text) == (number < 2)
        assert browser.find_element(By.ID, "picture").get_attribute("src").endswith(trial["data"])
        if number == 0:  # the picture goes after its time, and the buttons stay
            began = time.perf_counter()
            wait.until(lambda b: b.find_element(By.ID, "frame").get_attribute("class") == "blank")
            assert time.perf_counter() - began < 5
        say_real = number % 3 != 0
        answers.append(say_real)
        if number % 2:
            body.send_keys("r" if say_real else Keys.ARROW_RIGHT)
        else:
            browser.find_element(By.ID, "real" if say_real else "generated").click()
    wait.until(lambda b: b.find_element(By.ID, "end").is_displayed())

    counted = list(zip(shown, answers, strict=True))[2:]
    wrong = {kind: np.mean([t["real"] != s for t, s in counted if t["real"] == kind]) for kind in (True, False)}
    assert browser.find_element(By.ID, "r2g").text == f"{100 * wrong[True]:.1f} %"
    assert browser.find_element(By.ID, "g2r").text == f"{100 * wrong[False]:.1f} %"

    browser.find_element(By.ID, "download").click()
    wait.until(lambda b: list((tmp_path / "downloads").glob("user-study-*.json")))
    (result,) = (tmp_path / "downloads").glob("user-study-*.json")
    kept = json.loads(result.read_text())
    assert [a["image"] for a in kept["answers"]] == [t["image"] for t, _ in counted]
    assert [a["said_real"] for a in kept["answers"]] == [s for _, s in counted]
    assert f"R2G {100 * wrong[True]:.1f} %, G2R {100 * wrong[False]:.1f} %" in merge([result])
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
