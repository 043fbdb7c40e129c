"""The rules of FrozenLake, CliffWalking and Taxi, as envpool plays them.

Source: sail-sg/envpool, envpool/toy_text/frozen_lake.h, cliffwalking.h and taxi.h.
"""

from typing import Final

from trainers.simulators.tabular import Rule

__all__ = ["CLIFF_STATES", "LAKES", "TAXI_STATES", "cliff_walking", "frozen_lake", "taxi"]

LAKES: Final = {
    4: ("SFFF", "FHFH", "FFFH", "HFFG"),
    8: ("SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG"),
}
"""By size: start, frozen, hole, goal."""

CLIFF_ROWS, CLIFF_COLUMNS = 4, 12
CLIFF_STATES: Final = CLIFF_ROWS * CLIFF_COLUMNS

TAXI_SIDE: Final = 5
TAXI_STATES: Final = 500
STOPS: Final = ((0, 0), (0, 4), (4, 0), (4, 3))
IN_TAXI: Final = len(STOPS)
STREETS: Final = ("|:|::|", "|:|::|", "|::::|", "||:|:|", "||:|:|")
"""What is left of each column: a colon can be passed."""
SOUTH, NORTH, EAST, WEST, PICK_UP = range(5)


def frozen_lake(size: int) -> Rule:
    """Actions left, down, right, up; 1 at the goal; ends there and in a hole. Play it with is_slippery."""
    lake = LAKES[size]

    def rule(state: int, action: int) -> tuple[int, float, bool]:
        row, column = divmod(state, size)
        row = min(max(row + (0, 1, 0, -1)[action], 0), size - 1)
        column = min(max(column + (-1, 0, 1, 0)[action], 0), size - 1)
        cell = lake[row][column]
        return row * size + column, float(cell == "G"), cell in "HG"

    return rule


def cliff_walking(state: int, action: int) -> tuple[int, float, bool]:
    """Actions up, right, down, left; -1 a step; the cliff costs 100 and leads back to the start; ends at the goal."""
    row, column = divmod(state, CLIFF_COLUMNS)
    row = min(max(row + (-1, 0, 1, 0)[action], 0), CLIFF_ROWS - 1)
    column = min(max(column + (0, 1, 0, -1)[action], 0), CLIFF_COLUMNS - 1)
    is_last_row, last_column = row == CLIFF_ROWS - 1, CLIFF_COLUMNS - 1
    if is_last_row and 0 < column < last_column:
        return (CLIFF_ROWS - 1) * CLIFF_COLUMNS, -100.0, False
    return row * CLIFF_COLUMNS + column, -1.0, is_last_row and column == last_column


def taxi(state: int, action: int) -> tuple[int, float, bool]:
    """Actions south, north, east, west, pick up, drop; -1 a step, -10 a useless stop, 20 at the destination: the end.

    A state is ((row * 5 + column) * 5 + passenger) * 4 + destination; passenger 4 is in the taxi.
    """
    rest, destination = divmod(state, len(STOPS))
    rest, passenger = divmod(rest, IN_TAXI + 1)
    row, column = divmod(rest, TAXI_SIDE)
    reward, ends = -1.0, False
    if action == SOUTH:
        row = min(row + 1, TAXI_SIDE - 1)
    elif action == NORTH:
        row = max(row - 1, 0)
    elif action == EAST:
        column += STREETS[row][column + 1] == ":"
    elif action == WEST:
        column -= STREETS[row][column] == ":"
    elif action == PICK_UP:
        if passenger < IN_TAXI and STOPS[passenger] == (row, column):
            passenger = IN_TAXI
        else:
            reward = -10.0
    elif passenger == IN_TAXI and (row, column) in STOPS:
        passenger = STOPS.index((row, column))
        ends = passenger == destination
        reward = 20.0 if ends else -1.0
    else:
        reward = -10.0
    return ((row * TAXI_SIDE + column) * (IN_TAXI + 1) + passenger) * len(STOPS) + destination, reward, ends
