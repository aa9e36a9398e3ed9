import pytest
from collectable import Place


@pytest.fixture
def place() -> Place:
    return Place()
