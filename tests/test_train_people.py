"""Training on photos: the folder, the joined classes, the samples, and a run on a few tiny photos."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("torch")
import torch
import train_people
import training
from train_people import Batches, PhotoTask, Plan, Unseen, class_weights, from_checkpoint, join, open_photos, piece
from training import IGNORED, Trainer

from refinenet_edge.labels import PEOPLE, read_label_file
from refinenet_edge.model import create, load_checkpoint, save_checkpoint

CLASSES = Path(__file__).parents[1] / "examples" / "people.toml"
NAMES = ("wall", "ball", "box")


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second thread and no worker process: a whole suite shares this machine."""
    monkeypatch.setattr(training, "WORKERS", 0)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten photos of 60x80: a ball of class 1 on a wall; the outermost columns do not count; box 2 in every second."""
    root = tmp_path / "photos of balls"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "names.txt").write_text("\n".join(NAMES) + "\n")
    for number in range(10):
        image, mask = np.full((60, 80, 3), 60 + number, np.uint8), np.zeros((60, 80), np.uint8)
        cv2.circle(mask, (25 + number, 30), 12, 1, -1)
        if number % 2:
            mask[40:55, 50:70] = 2
        image[mask == 1], image[mask == 2] = (0, 0, 250), (0, 250, 0)
        mask[:, :2] = IGNORED
        cv2.imwrite(str(root / "images" / f"{number}.png"), image)
        cv2.imwrite(str(root / "masks" / f"{number}.png"), mask)
    return root


def tiny(folder: Path, name: str = "tiny", **changes: object) -> PhotoTask:
    fields = {"steps": 2, "validate_every": 2, "shapes": ((64, 96, 2), (64, 64, 3)), "longer_side": 64}
    photos = open_photos(folder, None)
    return PhotoTask(photos, Plan(**(fields | changes)), name, train_people.from_imagenet)  # type: ignore[arg-type]


class TestTheFolder:
    def test_every_tenth_photo_is_for_validation_unless_lists_say_otherwise(self, folder: Path) -> None:
        photos = open_photos(folder, None)
        assert photos.names == NAMES
        assert [path.stem for path in photos.unseen] == ["0"]
        assert [path.stem for path in photos.training] == [str(number) for number in range(1, 10)]
        (folder / "train.txt").write_text("1\n2\n")
        (folder / "val.txt").write_text("3\n")
        photos = open_photos(folder, None)
        assert [[path.stem for path in paths] for paths in (photos.training, photos.unseen)] == [["1", "2"], ["3"]]

    def test_what_is_missing_is_said(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(click.ClickException, match=r"empty needs images/, masks/ and names\.txt"):
            open_photos(tmp_path / "empty", None)
        (folder / "train.txt").write_text("1\nlost\n")
        (folder / "val.txt").write_text("3\n")
        with pytest.raises(click.ClickException, match="lost and 0 more of its lists are not in"):
            open_photos(folder, None)

    def test_a_mask_of_another_size_is_refused(self, folder: Path) -> None:
        cv2.imwrite(str(folder / "masks" / "3.png"), np.zeros((60, 81), np.uint8))
        photos = open_photos(folder, None)
        with pytest.raises(click.ClickException, match=r"3\.png is uint8, \(60, 81\): expected"):
            class_weights(photos)

    def test_a_mask_with_a_value_that_has_no_name_is_refused(self, folder: Path) -> None:
        mask = np.zeros((60, 80), np.uint8)
        mask[5, 6] = 3
        cv2.imwrite(str(folder / "masks" / "3.png"), mask)
        with pytest.raises(click.ClickException, match=r"3\.png has the value 3: names\.txt names 0 to 2, 255"):
            class_weights(open_photos(folder, None))

    @pytest.mark.parametrize("stored", [False, True])
    def test_a_phones_photo_is_turned_and_its_mask_lies_as_it_is_seen_or_stored(
        self, stored: bool, folder: Path
    ) -> None:
        seen, mask = cv2.imread(str(folder / "images" / "3.png")), cv2.imread(str(folder / "masks" / "3.png"), -1)
        assert seen is not None and mask is not None
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        Image.fromarray(np.rot90(seen)[..., ::-1]).save(folder / "images" / "3.png", exif=exif)
        cv2.imwrite(str(folder / "masks" / "3.png"), np.rot90(mask) if stored else mask)
        photos = open_photos(folder, None)
        image, classes = photos.read(folder / "images" / "3.png")
        assert np.array_equal(image, seen) and np.array_equal(classes, mask)

    def test_rare_classes_count_more_and_all_pixels_together_as_before(self, folder: Path) -> None:
        photos = open_photos(folder, None)
        weights = np.array(class_weights(photos))
        masks = np.concatenate([photos.read(path)[1].ravel() for path in photos.training])
        shares = np.bincount(masks[masks != IGNORED]) / (masks != IGNORED).sum()
        assert list(np.argsort(-weights)) == list(np.argsort(shares))
        assert (weights * shares).sum() == pytest.approx(1, abs=1e-3)

    def test_a_class_without_a_pixel_is_refused(self, folder: Path) -> None:
        (folder / "names.txt").write_text("wall\nball\nbox\nghost\n")
        with pytest.raises(click.ClickException, match=r"no training mask .* has a pixel of 'ghost'"):
            class_weights(open_photos(folder, None))


class TestJoinedClasses:
    def test_the_people_classes_are_those_of_the_labels_that_ship(self) -> None:
        table = train_people.tomllib.loads(CLASSES.read_text("utf-8"))
        names = [name for members in table["classes"].values() for name in members] + table["ignored"]["names"]
        assert len(names) == len(set(names)) == 59  # of Clothing Co-Parsing
        classes, values = join(names, CLASSES)
        assert classes == PEOPLE.names
        assert values[names.index("sunglasses")] == classes.index("skin")
        assert values[names.index("hat")] == classes.index("hair")
        assert values[names.index("suit")] == IGNORED

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            ("wall\nball\n", "speaks of 'box', which names.txt does not have"),
            ("wall\nball\nbox\ncat\n", "does not say where cat belong"),
        ],
    )
    def test_a_name_too_few_or_too_many_is_said(self, names: str, said: str, folder: Path, tmp_path: Path) -> None:
        (folder / "names.txt").write_text(names)
        file = tmp_path / "classes.toml"
        file.write_text('[classes]\nwall = ["wall"]\nthings = ["ball", "box"]\n[ignored]\nnames = []\n')
        with pytest.raises(click.ClickException, match=said):
            open_photos(folder, file)

    def test_masks_are_read_as_the_joined_classes(self, folder: Path, tmp_path: Path) -> None:
        file = tmp_path / "classes.toml"
        file.write_text('[classes]\nthing = ["ball"]\nwall = ["wall"]\n[ignored]\nnames = ["box"]\n')
        photos = open_photos(folder, file)
        _, mask = photos.read(photos.training[0])
        assert mask[30, 26] == 0 and mask[5, 40] == 1 and mask[45, 60] == IGNORED


class TestSamples:
    def test_a_sample_is_a_function_of_its_number(self, folder: Path) -> None:
        task = tiny(folder, steps=4)
        batches = task.batches()
        assert isinstance(batches, Batches)
        shapes = [tuple(batches[step][0].shape) for step in range(4)]
        assert shapes == [(2, 3, 64, 96), (3, 3, 64, 64), (2, 3, 64, 96), (3, 3, 64, 64)]
        again, other = tiny(folder, steps=4).batches(), tiny(folder, steps=4, seed=2).batches()
        assert torch.equal(batches[3][0], again[3][0]) and torch.equal(batches[3][1], again[3][1])
        assert not torch.equal(batches[3][0], other[3][0])

    def test_every_photo_is_seen_once_in_each_pass(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[str] = []
        read = train_people.Photos.read
        monkeypatch.setattr(
            train_people.Photos, "read", lambda photos, path: seen.append(path.stem) or read(photos, path)
        )
        batches = tiny(folder).batches()
        seen.clear()
        for number in range(18):
            batches.sample(number, (32, 32))
        assert sorted(seen[:9]) == sorted(seen[9:]) == [str(number) for number in range(1, 10)]
        assert seen[:9] != seen[9:]

    def test_image_and_labels_are_moved_alike(self) -> None:
        """Red is class 1 in every piece, however it was turned, stretched and mirrored."""
        image, labels = np.zeros((90, 60, 3), np.uint8), np.zeros((90, 60), np.uint8)
        labels[20:70, 10:40] = 1
        image[labels == 1] = (0, 0, 255)
        shares = []
        for number in range(40):
            cut, classes = piece(image, labels, (64, 96), np.random.default_rng(number))
            assert cut.shape == (64, 96, 3) and classes.shape == (64, 96)
            counted = classes != IGNORED
            agree = (cut[..., 2] > 127) == (classes == 1)
            assert agree[counted].mean() > 0.93  # but for the edges, which are interpolated
            shares.append(float((classes == 1).mean()))
        assert max(shares) > 0.6 and min(shares) < 0.2  # near and far

    def test_validation_photos_are_as_large_as_a_bundle_takes_them_and_labels_keep_their_size(
        self, folder: Path
    ) -> None:
        image, labels = Unseen(open_photos(folder, None), 64, 10)[0]
        assert image.shape == (3, 64, 64) and labels.shape == (60, 80)  # 48x64, up to a multiple of 32
        image, _ = Unseen(open_photos(folder, None), 128, 10)[0]
        assert image.shape == (3, 96, 128)


class TestARun:
    def test_it_starts_from_imagenet_and_writes_weights_and_card(self, folder: Path, tmp_path: Path) -> None:
        trainer = Trainer(tiny(folder), tmp_path / "run", torch.device("cpu"))
        norm = trainer.module.get_submodule("encoder.stem.1")
        before = norm.running_mean.clone()
        assert trainer.run()
        card = trainer.finish()
        assert torch.equal(norm.running_mean, before)  # the encoder's statistics stay ImageNet's
        assert card["images"] == 5 and list(card["iou"]) == list(NAMES)
        assert card["data"] == "photos of balls: 9 photos to train on, 1 unseen"
        assert json.loads((tmp_path / "run" / "card.json").read_text("utf-8"))["sha256"] == card["sha256"]
        module = load_checkpoint(tmp_path / "run" / "tiny.safetensors", num_classes=3)
        assert module.spec.name == "rf_lw_effnet_lite0"

    def test_a_network_of_other_classes_gets_a_new_last_layer(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        file = tmp_path / "eight.safetensors"
        save_checkpoint(create("rf_lw_effnet_lite0", 8), file)
        module, old = from_checkpoint(str(file), 3), load_checkpoint(file)
        assert module.spec.num_classes == 3
        assert module.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 8, 8)
        kept = module.state_dict()
        assert all(torch.equal(kept[key], value) for key, value in old.state_dict().items() if "classifier" not in key)
        save_checkpoint(module, tmp_path / "three.safetensors")
        assert load_checkpoint(tmp_path / "three.safetensors").spec.num_classes == 3
        same = from_checkpoint(str(file), 8)
        assert torch.equal(same.state_dict()["classifier.weight"], old.state_dict()["classifier.weight"])

    def test_the_command_goes_on_from_a_checkpoint(self, folder: Path, tmp_path: Path) -> None:
        start = tmp_path / "start.safetensors"
        save_checkpoint(create("rf_lw_effnet_lite0", 3), start)
        words = ["--data", str(folder), "--start", str(start), "--out", str(tmp_path / "mine"), "--steps", "1"]
        before = signal.getsignal(signal.SIGINT)
        done = CliRunner().invoke(train_people.main, [*words, "--device", "cpu"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert (tmp_path / "mine" / "start_mine.safetensors").is_file()
        assert read_label_file(tmp_path / "mine" / "labels.txt").names == NAMES
        assert signal.getsignal(signal.SIGINT) is before  # Ctrl-C ends again whatever comes after it

    @pytest.mark.parametrize(
        ("device", "more", "said"),
        [("cuda", (), True), ("cuda", ("--batch", "4"), False), ("cpu", (), False)],
    )
    def test_a_gpu_may_train_longer_which_the_command_says(
        self, device: str, more: tuple[str, ...], said: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tasks: list[PhotoTask] = []
        monkeypatch.setattr(train_people, "train", lambda task, *_: tasks.append(task))
        words = ["--data", str(folder), "--out", "run", "--device", device, *more]
        done = CliRunner().invoke(train_people.main, words, catch_exceptions=False)
        assert done.exit_code == 0 and ("a GPU may train longer" in done.output) is said
        assert tasks[0].schedule.steps == Plan.steps
