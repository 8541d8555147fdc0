import pytest

from offramp.errors import InputError
from offramp.export.grouping import Grouping, group_classes

CLASSES = ("sky", "road", "car", "pavement", "bus")
PALETTE = ((0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 4), (0, 0, 5))
OBJECTS = (2, 4)


def test_a_group_stands_where_its_first_class_stood():
    found = group_classes(["road+pavement=ground", "car+bus=vehicle"], CLASSES, PALETTE, OBJECTS)
    assert found == Grouping(
        ("sky", "ground", "vehicle"), ((0, 0, 1), (0, 0, 2), (0, 0, 3)), object_classes=(2,), groups=(0, 1, 2, 1, 2)
    )


def test_a_group_is_an_object_only_if_all_of_it_is():
    assert group_classes(["car+pavement=low"], CLASSES, PALETTE, OBJECTS).object_classes == (3,)
    assert group_classes(["car + bus = car"], CLASSES, PALETTE, OBJECTS).classes == ("sky", "road", "car", "pavement")


def test_nothing_asked_nothing_grouped():
    assert group_classes([], CLASSES, PALETTE, OBJECTS) == Grouping(CLASSES, PALETTE, OBJECTS, ())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["road"], "not a group"),
        (["road=x"], "not a group"),
        (["road+=x"], "not a group"),
        (["road+car="], "not a group"),
        (["road+tram=x"], "no class 'tram'; there are sky, road"),
        (["road+road=x"], "'road' is named twice"),
        (["road+car=x", "car+bus=y"], "'car' is named twice"),
        (["road+car=sky"], "another class is called 'sky'"),
        (["road+car=x", "pavement+bus=x"], "another class is called 'x'"),
        (["sky+road+car+pavement+bus=all"], "fewer than two classes"),
    ],
)
def test_bad_groups_are_refused(asked, said):
    with pytest.raises(InputError, match=said):
        group_classes(asked, CLASSES, PALETTE, OBJECTS)
