"""The five questions that every variant asks, and what the departments hold.

They are those of `bench/pack`: same providers, evidence types and fields. The values
are the same for everybody, since nothing but their size matters here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.codes import citizen_check_digit

REQUESTER = "bench"
PURPOSE = "bench"
MATTER = "five@1"


@dataclass(frozen=True, slots=True)
class Ask:
    """One of the five questions."""

    name: str
    """The requirement, and the evidence type without its version."""
    provider: str
    service: str
    values: Mapping[str, str | int]
    """What the department answers, by field."""

    @property
    def evidence_type(self) -> str:
        """The evidence type as `id@version`."""
        return f"{self.name}@1"

    @property
    def path(self) -> str:
        """Where the department takes this question."""
        return f"/{self.provider}/lookups"


ASKS = (
    Ask(
        name="land",
        provider="d1",
        service="d1_land",
        values={
            "parcel_no": "990100-0117-00482",
            "address": "云溪市青石区柳堤路18号3单元502室",
            "use": "住宅",
            "area_m2": 96,
            "registered_on": "2019-05-20",
            "status": "VALID",
        },
    ),
    Ask(
        name="vehicle",
        provider="d2",
        service="d2_vehicle",
        values={
            "plate_no": "云溪A00482",
            "make": "长风",
            "colour": "白",
            "engine_no": "EN-20190520-00482",
            "registered_on": "2021-03-02",
            "status": "VALID",
        },
    ),
    Ask(
        name="tax",
        provider="d3",
        service="d3_tax",
        values={
            "tax_no": "TX-9901-0000482",
            "office": "云溪市税务局第二分局",
            "year": 2025,
            "amount_due": 0,
            "filed_on": "2026-03-18",
            "status": "CLOSED",
        },
    ),
    Ask(
        name="school",
        provider="d4",
        service="d4_school",
        values={
            "school_no": "G9901-2014-00482",
            "school": "云溪市第三中学",
            "grade": 8,
            "class": 4,
            "enrolled_on": "2023-09-01",
            "status": "VALID",
        },
    ),
    Ask(
        name="pension",
        provider="d5",
        service="d5_pension",
        values={
            "account_no": "9901-0000-0482",
            "office": "云溪市社会保险中心",
            "months_paid": 148,
            "scheme": "城镇职工基本养老保险",
            "since": "2013-07-01",
            "status": "VALID",
        },
    ),
)


def people(count: int) -> list[str]:
    """Return ids of persons who could not exist, with right check digits."""
    stems = [f"9901{i % 90 + 10:02}19{i % 40 + 50:02}0{i % 9 + 1}15" for i in range(99)]
    first_17 = [f"{stems[i % 99]}{i // 99 + 1:03}" for i in range(count)]
    return [one + citizen_check_digit(one) for one in first_17]
