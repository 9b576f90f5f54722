"""Links that a source states by names."""

from sdiff.maps import links


def test_a_link_stated_from_either_end_is_there_once_and_those_that_leave_the_map_drop() -> None:
    found = links.successors(["a", "b", "c"], entries=[["x"], ["a"], []], exits=[["b", "c", "y"], [], []])
    assert found.tolist() == [[0, 1], [0, 2]]
    assert links.successors([], [], []).shape == (0, 2)


def test_the_neighbour_is_the_one_that_accompanies_longest_in_all() -> None:
    beside = [[("b", 5), ("c", 3), ("c", 4), ("gone", 99)], [], [("b", 2), ("a", 2)]]
    assert links.neighbours(["a", "b", "c"], beside).tolist() == [2, -1, 0]
