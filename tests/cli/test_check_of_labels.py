"""``data check`` of images that lack labels."""

from __future__ import annotations

import re

from own_folder import ids, write_own


def test_labels_are_counted_by_task_and_split(run, tmp_path):
    file = write_own(tmp_path, 8, missing="skip")
    for sample_id in ids(8)[::2]:
        (tmp_path / "orchard" / "outline" / f"{sample_id}.png").unlink()
    ran = run("data", "check", file)
    assert ran.code == 0
    rows = re.findall(r"^outline +(train|holdout|test) +(\d) +(\d)$", ran.out, re.MULTILINE)
    assert [(part, int(images), int(labelled)) for part, images, labelled in rows] == [
        ("train", 4, 2),
        ("holdout", 2, 1),
        ("test", 2, 1),
    ]
