import numpy as np
import pytest

from ise_plugin.clustering.labels import numbered


@pytest.mark.parametrize(
    "labels, smallest, expected",
    [
        ([], 1, []),
        ([-1, -1], 1, [-1, -1]),
        ([7, -1, 3, 7, 3, 9], 1, [0, -1, 1, 0, 1, 2]),
        ([7, -1, 3, 7, 3, 9], 2, [0, -1, 1, 0, 1, -1]),
        ([9, 7, 7, 7, 3, 3], 3, [-1, 0, 0, 0, -1, -1]),
        ([9, 7, 3], 2, [-1, -1, -1]),
    ],
)
def test_clusters_are_numbered_by_their_first_images_and_small_ones_are_outliers(labels, smallest, expected):
    found = numbered(np.array(labels, np.int64), smallest)
    assert found.dtype == np.int64 and found.tolist() == expected
