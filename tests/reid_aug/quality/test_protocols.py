"""Protocols of image quality: every shipped one, published rows beside them, and settings that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from reid_aug.data.pairs import list_digest
from reid_aug.quality import run as quality_run
from reid_aug.quality.measure import Quality, published, published_elsewhere
from reid_aug.quality.protocols import DataSetFacts, PairsConfig, QualityConfig, QualityProtocol
from reid_aug.quality.surroundings import Surroundings

ROOT = Path(__file__).parents[3]


class TestProtocols:
    @pytest.mark.parametrize("path", sorted((ROOT / "configs" / "quality").glob("*.yaml")), ids=lambda p: p.stem)
    def test_every_shipped_protocol_loads(self, path: Path) -> None:
        settings, as_shipped = quality_run.load_config(str(path), ["data.root=somewhere", "out=elsewhere"])
        assert settings.name == path.stem and as_shipped and settings.protocol.metrics
        for row in settings.published:
            assert row.source and not {"DS", "PCKh", "APS"} & row.values.keys()  # ours are of other networks

    def test_papers_of_the_field_each_have_one(self) -> None:
        assert {"pg2", "deformable", "vdg", "momi", "gfla"} <= {p.stem for p in (ROOT / "configs" / "quality").glob("*.yaml")}

    def test_published_rows_stand_beside_equal_protocols_on_equal_data_only(self, surroundings: Surroundings) -> None:
        settings, as_shipped = quality_run.load_config(str(ROOT / "configs/quality/vdg.yaml"), [])
        whole = Quality("vdg", 12000, {}, {})
        assert published(settings, surroundings, whole, as_shipped=as_shipped) == ()  # other data
        facts = settings.data_set
        assert facts is not None
        surroundings.facts = facts.model_dump(exclude={"name"})
        rows = published(settings, surroundings, whole, as_shipped=True)
        assert {row.method for row in rows} >= {"PG2", "VDG", "VDG_w"}
        assert published(settings, surroundings, Quality("vdg", 300, {}, {}), as_shipped=True) == ()
        assert published(settings, surroundings, whole, as_shipped=False) == ()
        surroundings.source_split = "train"
        assert published(settings, surroundings, whole, as_shipped=True) == ()

    @pytest.mark.parametrize(
        ("name", "override", "same"),
        [
            ("vdg", "download=false", True),
            ("vdg", "pairs.count=12000", True),  # as the file has it
            ("vdg", "pairs.count=300", False),
            ("vdg", "pairs.file=mine.csv", False),
            ("vdg", "metrics.IS.splits=5", False),
            ("vdg", "name=mine", False),
            ("patn", "pairs.file=mine.csv", True),  # whose pairs are compared themselves
            ("patn", "jpeg=90", False),
        ],
    )
    def test_a_protocol_is_the_packaged_one_when_it_equals_it(self, name: str, override: str, same: bool, tmp_path: Path) -> None:
        path = ROOT / "configs" / "quality" / f"{name}.yaml"
        copy = tmp_path / "copy.yaml"
        copy.write_text(path.read_text())
        for file in (path, copy):
            assert quality_run.load_config(str(file), ["data.root=x"])[1]
            assert quality_run.load_config(str(file), ["data.root=x", override])[1] == same

    def test_a_changed_copy_is_another_protocol(self, tmp_path: Path) -> None:
        text = (ROOT / "configs/quality/vdg.yaml").read_text()
        for old, new in (("splits: 10", "splits: 5"), ("IS: 4.007", "IS: 9.007"), ("limb_px: 4.0", "limb_px: 6.0")):
            assert old in text
            (tmp_path / "vdg.yaml").write_text(text.replace(old, new))
            assert not quality_run.load_config(str(tmp_path / "vdg.yaml"), ["data.root=x"])[1]

    def test_rows_of_a_known_list_stand_beside_its_pairs_only(self, surroundings: Surroundings) -> None:
        settings, as_shipped = quality_run.load_config(str(ROOT / "configs/quality/patn.yaml"), [])
        assert settings.data_set is not None and settings.pairs.order == "keypoints"
        surroundings.facts = settings.data_set.model_dump(exclude={"name"})
        whole = Quality("patn", 12000, {}, {})
        rows = published(settings, surroundings, whole, as_shipped=as_shipped, pair_list=settings.published_pairs)
        assert rows == settings.published != ()
        for other in (None, list_digest([("a.jpg", "b.jpg")])):
            assert published(settings, surroundings, whole, as_shipped=as_shipped, pair_list=other) == ()

    def test_a_window_no_paper_states_has_no_row(self) -> None:
        settings, _ = quality_run.load_config(str(ROOT / "configs/quality/vdg.yaml"), [])
        assert {name for row in settings.published for name in row.values} == {"IS", "mask-IS"}

    @pytest.mark.parametrize("name", ["vdg", "vdg-fashion"])
    def test_rows_of_something_else_never_stand_beside_ours(self, name: str, surroundings: Surroundings) -> None:
        """They are shown by themselves where protocol and data set are the paper's, and nowhere else."""
        settings, as_shipped = quality_run.load_config(str(ROOT / f"configs/quality/{name}.yaml"), [])
        assert settings.elsewhere and all(row.why and row.source for row in settings.elsewhere)
        assert {"PDIG"} <= {row.method for row in settings.elsewhere} and "PDIG" not in {row.method for row in settings.published}
        assert published_elsewhere(settings, surroundings, as_shipped=as_shipped) == ()  # other data
        assert settings.data_set is not None
        surroundings.facts = surroundings.facts | settings.data_set.counts
        assert published_elsewhere(settings, surroundings, as_shipped=True) == settings.elsewhere
        assert published_elsewhere(settings, surroundings, as_shipped=False) == ()
        surroundings.source_split = "train"
        assert published_elsewhere(settings, surroundings, as_shipped=True) == ()

    def test_a_data_set_is_recognised_by_what_is_known_of_it(self, surroundings: Surroundings) -> None:
        assert surroundings.facts["images"] == 6 * 4 + 4 * 2 + 4 * 5
        market = quality_run.load_config(str(ROOT / "configs/quality/vdg.yaml"), [])[0].data_set
        of_both = ["name", "train_images", "train_identities", "query_images", "query_identities"]
        assert market is not None and list(market.model_dump()) == of_both, "what is not known is in no digest"
        with pytest.raises(ValueError, match="nobody is recognised by a count at least"):
            DataSetFacts(name="nobody")

    def test_pairs_of_any_pose_are_a_later_key(self) -> None:
        """It changes no folder of earlier measurements while it is off."""
        assert "any_pose" not in PairsConfig().model_dump() and PairsConfig(any_pose=True).model_dump()["any_pose"] is True

    @pytest.mark.parametrize("given", ["metrics.IS.splits=5", "metrics.PCKh.keypoints=found.csv"])
    def test_a_metrics_option_changes_one_of_all(self, given: str, tmp_path: Path) -> None:
        (tmp_path / "data.yaml").write_text("data: {root: x}\n")
        _, name, _ = given.partition("=")[0].split(".")
        standard = QualityProtocol().metrics
        for path in (None, str(tmp_path / "data.yaml")):
            metrics = quality_run.load_config(path, [given])[0].metrics
            assert list(metrics) == list(standard)
            assert [key for key in metrics if metrics[key] != standard[key]] == [name]
        assert list(quality_run.load_config(None, ["metrics={IS: {splits: 5}}"])[0].metrics) == ["IS"]  # a table names them all
        path_of_momi = ROOT / "configs" / "quality" / "momi.yaml"
        assert list(quality_run.load_config(str(path_of_momi), ["metrics.IS.splits=5"])[0].metrics) == ["IS", "mask-IS", "FID", "APS"]

    @pytest.mark.parametrize(
        ("overrides", "complaint"),
        [
            (["metrics.SSIM.kind=sim"], "kind"),
            (["metrics.SSIM={kind: ssim, protocol: lpips}"], "protocol"),
            (["metrics.SSIM={kind: ssim, mask: true}"], "unknown key"),
            (["jpeg=0"], "jpeg"),
            (["pairs.count=0"], "pairs.count"),
            (["mask.closing_px=4"], "mask.closing_px: a closing's side is an odd number of pixels, got 4"),
            (["pairs.source_identities=3"], "source_identities is of pairs sampled with kind: unpaired, got 3 for kind: paired"),
            (["pairs={kind: unpaired, target_identities: 2, file: a.csv}"], "target_identities is .* got 2 for pairs of a file"),
            (["pairs={kind: unpaired, any_pose: true}"], "any_pose is of pairs sampled with kind: paired, got it for kind: unpaired"),
            (["pairs={any_pose: true, file: a.csv}"], "any_pose is of .* got it for pairs of a file"),
            (["pairs={kind: unpaired, order: keypoints}"], "order: keypoints is of kind: paired"),
            (["metrics.SSMI.masked=true"], r"a metric of a name of its own says its kind, got 'SSMI'; .*did you mean 'SSIM'"),
            (["published=[{method: A, values: {FOD: 1.0}, source: B}]"], "FOD"),
        ],
    )
    def test_bad_protocols_are_refused(self, overrides: list[str], complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            quality_run.load_config(None, overrides)

    def test_the_benchmarks_is_everything(self) -> None:
        assert QualityConfig().protocol.metrics == QualityProtocol().metrics
        assert {m.masked for n, m in QualityProtocol().metrics.items() if n.startswith("mask-")} == {True}  # type: ignore[union-attr]
