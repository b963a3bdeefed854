from typing import NamedTuple
class Stage(NamedTuple):
    terms: int; weight: float; cost: float; score: float
class Discovery:
    @staticmethod
    def of(search,*a): return search
