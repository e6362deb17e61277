"""The seven registers of the demo, each a database with tables of its own.

Tables and columns are named as such registers name them (abbreviated pinyin), not
as the evidence types do: the mapping between the two is what the department's
service does (`exchange.demo.departments` writes it down). What a person's row holds
and no evidence type names, such as the account of a claim, stays inside.

Everything is written before the departments start; afterwards only a department's
own process writes its register (`exchange.demo.steps`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import chain
from typing import TypeAlias

from exchange.demo.people import (
    CITY,
    DISTRICTS,
    REGISTER_DAY,
    Birth,
    Household,
    Person,
    Population,
)

Value: TypeAlias = str | int | float | None
Rows: TypeAlias = Iterable[tuple[Value, ...]]
"""Rows in the order of the table's columns."""

_ADULT = 18
_SCHOOL = 7
_ID_CARD_YEARS = 20
MIDWIFERY = "云溪市妇幼保健院"
_MIDWIFERY_CODE = "12990100K00000014L"
BANK = "云溪银行"
_DOSES = (("乙肝疫苗", 0), ("卡介苗", 0), ("脊灰疫苗", 60), ("百白破疫苗", 90))
"""The first doses of the national programme, and the age in days when due."""
PREMIUM_YUAN = 400
"""What a year of residents' insurance costs."""


@dataclass(frozen=True, slots=True)
class Register:
    """One department's database, as it is before the demo starts."""

    schema: str
    """Tables, indexes and views, in SQLite's SQL."""
    rows: Callable[[Population], Mapping[str, Rows]]
    """What each table holds, by table."""


_POLICE = """
CREATE TABLE t_czrk (          -- 常住人口
    gmsfhm TEXT PRIMARY KEY,   -- 公民身份号码
    xm TEXT NOT NULL,          -- 姓名
    xbdm TEXT NOT NULL,        -- 性别
    csrq TEXT NOT NULL,        -- 出生日期
    mzdm TEXT NOT NULL,        -- 民族
    rkzt TEXT NOT NULL,        -- 人口状态: 0 正常
    zjyxq TEXT,                -- 证件有效期
    hh TEXT NOT NULL,          -- 户号
    yhzgx TEXT NOT NULL        -- 与户主关系
) WITHOUT ROWID;
CREATE INDEX i_czrk_hh ON t_czrk (hh);
CREATE TABLE t_hu (            -- 户
    hh TEXT PRIMARY KEY,
    hlb TEXT NOT NULL,         -- 户类别
    hzxm TEXT NOT NULL,        -- 户主姓名
    dz TEXT NOT NULL,          -- 地址
    xzqh TEXT NOT NULL,        -- 行政区划
    pcsdm TEXT NOT NULL        -- 派出所
) WITHOUT ROWID;
CREATE TABLE t_csdj (          -- 出生登记
    cszmbh TEXT PRIMARY KEY,   -- 出生医学证明编号
    gmsfhm TEXT NOT NULL,
    djrq TEXT NOT NULL         -- 登记日期
) WITHOUT ROWID;
CREATE VIEW v_rk AS            -- 人口: 状态按共享目录的代码
    SELECT gmsfhm, xm, xbdm, csrq, mzdm, zjyxq,
           CASE rkzt WHEN '0' THEN 'ALIVE' WHEN '1' THEN 'DECEASED'
                     ELSE 'CANCELLED' END AS zt
    FROM t_czrk;
CREATE VIEW v_hj AS            -- 户籍: 人与户
    SELECT r.gmsfhm, r.xm, h.hh, h.hlb, h.hzxm, r.yhzgx, h.dz, h.xzqh, h.pcsdm
    FROM t_czrk r JOIN t_hu h ON h.hh = r.hh;
CREATE VIEW v_csdj AS          -- 出生登记与户籍
    SELECT d.cszmbh, d.djrq, v.* FROM t_csdj d JOIN v_hj v ON v.gmsfhm = d.gmsfhm;
"""


def _police(population: Population) -> Mapping[str, Rows]:
    return {
        "t_hu": (
            (
                *(home.number, home.kind, home.head_name),
                *(home.address, home.region, home.police_station),
            )
            for home in population.households
        ),
        "t_czrk": chain.from_iterable(map(_residents, population.households)),
        "t_csdj": (
            (birth.certificate, birth.child.id, _day(birth.born_on, 12))
            for birth in population.births
            if birth.child
        ),
    }


def _residents(home: Household) -> Iterator[tuple[Value, ...]]:
    for member in home.members:
        one = member.person
        expires = REGISTER_DAY.replace(year=REGISTER_DAY.year + _ID_CARD_YEARS)
        yield (
            *(one.id, one.name, one.sex, one.birth_date.isoformat(), one.nation),
            *("0", expires.isoformat(), home.number, member.relation),
        )


_CIVIL_AFFAIRS = """
CREATE TABLE t_hydj (          -- 婚姻登记
    djzh TEXT PRIMARY KEY,     -- 登记证号
    nan_xm TEXT NOT NULL, nan_sfzh TEXT NOT NULL,
    nv_xm TEXT NOT NULL, nv_sfzh TEXT NOT NULL,
    djrq TEXT NOT NULL,        -- 登记日期
    djjg TEXT NOT NULL,        -- 登记机关
    hyzt TEXT NOT NULL         -- 婚姻状态: 20 已婚, 40 离婚 (GB/T 2261.2)
) WITHOUT ROWID;
CREATE INDEX i_hydj_nan ON t_hydj (nan_sfzh);
CREATE INDEX i_hydj_nv ON t_hydj (nv_sfzh);
CREATE VIEW v_hydj AS          -- 每人一行
    SELECT nan_sfzh AS sfzh, nan_xm AS xm, nv_sfzh AS po_sfzh, nv_xm AS po_xm,
           djzh, djrq, djjg, hyzt FROM t_hydj
    UNION ALL
    SELECT nv_sfzh, nv_xm, nan_sfzh, nan_xm, djzh, djrq, djjg, hyzt FROM t_hydj;
"""


def _civil_affairs(population: Population) -> Mapping[str, Rows]:
    return {
        "t_hydj": (
            (
                *(one.certificate, one.man.name, one.recorded_man_id),
                *(one.woman.name, one.woman.id, one.registered_on.isoformat()),
                *("云溪市民政局", "40" if one.divorced else "20"),
            )
            for one in population.marriages
        )
    }


_HEALTH = """
CREATE TABLE t_cszm (          -- 出生医学证明
    zmbh TEXT PRIMARY KEY,     -- 证明编号
    xse_xm TEXT, xse_xb TEXT NOT NULL,
    cssj TEXT NOT NULL,        -- 出生时间
    csrq TEXT NOT NULL,        -- 出生日期
    yz INTEGER, tz INTEGER, sc INTEGER,   -- 孕周, 体重 (g), 身长 (cm)
    csd_s TEXT, csd_sd TEXT, csd_xq TEXT, csd_qh TEXT NOT NULL,   -- 出生地
    jg_mc TEXT NOT NULL, jg_dm TEXT NOT NULL,   -- 助产机构
    mq_xm TEXT NOT NULL, mq_zjhm TEXT NOT NULL, mq_zjlx TEXT,   -- 母亲
    mq_nl INTEGER, mq_gj TEXT, mq_mz TEXT, mq_zz TEXT, mq_hj TEXT,
    fq_xm TEXT, fq_zjhm TEXT, fq_zjlx TEXT,   -- 父亲: 可空
    fq_nl INTEGER, fq_gj TEXT, fq_mz TEXT, fq_zz TEXT, fq_hj TEXT,
    lzr_xm TEXT, lzr_gx TEXT, lzr_zjhm TEXT,   -- 领证人
    qf_jg TEXT, qf_qh TEXT, qf_dm TEXT, qf_rq TEXT NOT NULL,   -- 签发
    qf_lx TEXT NOT NULL,       -- 签发类型: 1 首次
    hfyy TEXT, bfyy TEXT       -- 换发原因, 补发原因
) WITHOUT ROWID;
CREATE INDEX i_cszm_mq ON t_cszm (mq_zjhm, csrq);
CREATE TABLE t_yezd (          -- 育儿指导档案
    dabh TEXT PRIMARY KEY,     -- 档案编号
    zmbh TEXT NOT NULL UNIQUE,
    jdrq TEXT NOT NULL,        -- 建档日期
    jdjg TEXT NOT NULL         -- 建档机构
) WITHOUT ROWID;
"""

_ID_CARD = "111"
"""居民身份证 in GA/T 517."""


def _health(population: Population) -> Mapping[str, Rows]:
    homes = {
        member.person.id: home
        for home in population.households
        for member in home.members
    }
    return {
        "t_cszm": (_certificate(birth, homes) for birth in population.births),
        "t_yezd": (
            (
                *(f"YE{birth.certificate[1:]}", birth.certificate),
                *(_day(birth.born_on, 20), MIDWIFERY),
            )
            for birth in population.births
            if birth.child
        ),
    }


def _certificate(birth: Birth, homes: Mapping[str, Household]) -> tuple[Value, ...]:
    hour, minute = divmod(birth.minute_of_day, 60)
    day = birth.born_on.isoformat()
    mother, father = birth.mother, birth.father
    return (
        *(birth.certificate, birth.child_name, birth.child_sex),
        *(f"{day}T{hour:02d}:{minute:02d}:00+08:00", day),
        *(birth.weeks, birth.weight_g, birth.length_cm),
        *(None, "云溪市", DISTRICTS[birth.region[:6]], birth.region),
        *(MIDWIFERY, _MIDWIFERY_CODE),
        *_parent(mother, birth.born_on, homes[mother.id]),
        *(_parent(father, birth.born_on, homes[father.id]) if father else (None,) * 8),
        *(mother.name, "母亲", mother.id),
        *(MIDWIFERY, f"{CITY[:4]}01", _MIDWIFERY_CODE, _day(birth.born_on, 2)),
        *("1", None, None),
    )


def _parent(one: Person, day: date, home: Household) -> tuple[Value, ...]:
    household = f"云溪市{DISTRICTS[home.region[:6]]}"
    return (
        *(one.name, one.id, _ID_CARD, one.age(day), "CHN", one.nation),
        *(home.address, household),
    )


_DISEASE_CONTROL = """
CREATE TABLE t_jzz (           -- 预防接种证
    jzzh TEXT PRIMARY KEY,     -- 接种证号
    zmbh TEXT NOT NULL UNIQUE, -- 出生医学证明编号
    jdrq TEXT NOT NULL         -- 建档日期
) WITHOUT ROWID;
CREATE TABLE t_jzjl (          -- 接种记录
    jzzh TEXT NOT NULL, xh INTEGER NOT NULL,
    ymmc TEXT NOT NULL,        -- 疫苗
    jzrq TEXT NOT NULL,        -- 接种日期
    jzdw TEXT NOT NULL,        -- 接种单位
    PRIMARY KEY (jzzh, xh)
) WITHOUT ROWID;
"""


def _disease_control(population: Population) -> Mapping[str, Rows]:
    registered = [birth for birth in population.births if birth.child]
    return {
        "t_jzz": (
            (
                *(vaccination_card(birth.certificate), birth.certificate),
                _day(birth.born_on, 1),
            )
            for birth in registered
        ),
        "t_jzjl": (
            (vaccination_card(birth.certificate), *dose)
            for birth in registered
            for dose in first_doses(birth.born_on, REGISTER_DAY)
        ),
    }


def vaccination_card(certificate: str) -> str:
    """Return the number of the card that goes with a birth certificate."""
    return f"JZ{certificate[1:]}"


def first_doses(born_on: date, today: date) -> Iterator[tuple[Value, ...]]:
    """Yield number, vaccine, date and place of each dose that was due by today."""
    for number, (vaccine, age) in enumerate(_DOSES, start=1):
        if born_on + timedelta(days=age) <= today:
            yield (number, vaccine, _day(born_on, age), MIDWIFERY)


_MEDICAL_INSURANCE = """
CREATE TABLE t_cbxx (          -- 参保信息
    sfzh TEXT PRIMARY KEY,
    xz TEXT NOT NULL,          -- 险种: 310 职工, 390 居民
    cbzt TEXT NOT NULL,        -- 参保状态: 1 正常, 2 暂停
    cbdqh TEXT NOT NULL,       -- 参保地
    qsrq TEXT NOT NULL         -- 起始日期
) WITHOUT ROWID;
CREATE TABLE t_syfy (          -- 生育费用
    jsdh TEXT PRIMARY KEY,     -- 结算单号
    sfzh TEXT NOT NULL,        -- 产妇
    fmrq TEXT NOT NULL,        -- 分娩日期
    zje NUMERIC NOT NULL,      -- 总金额, 元
    jszt TEXT NOT NULL,        -- 结算状态: 0 未结算, 1 已结算
    skzh TEXT                  -- 收款账户
) WITHOUT ROWID;
CREATE INDEX i_syfy ON t_syfy (sfzh);
CREATE VIEW v_cbxx AS          -- 状态按共享目录的代码
    SELECT sfzh, xz, cbdqh, qsrq,
           CASE cbzt WHEN '1' THEN 'ACTIVE' ELSE 'SUSPENDED' END AS zt
    FROM t_cbxx;
CREATE VIEW v_syfy AS
    SELECT sfzh, fmrq, zje, jszt = '1' AS yjs FROM t_syfy;
"""


def _medical_insurance(population: Population) -> Mapping[str, Rows]:
    return {
        "t_cbxx": (
            (
                *(one.id, "390" if one.age(REGISTER_DAY) < _ADULT else "310"),
                *("1", one.id[:6], "2021-01-01"),
            )
            for one in population.people
            if int(one.id[14:17]) % 20  # one in twenty is not insured here
        ),
        # A birth whose papers are not done yet has a claim that is not settled.
        "t_syfy": (
            (
                *(f"SY{birth.certificate[1:]}", birth.mother.id),
                *(birth.born_on.isoformat(), 3000 + birth.weight_g / 10),
                *("1" if birth.child else "0", None),
            )
            for birth in population.births
        ),
    }


_HUMAN_RESOURCES = """
CREATE TABLE t_sbk (           -- 社会保障卡
    sfzh TEXT PRIMARY KEY,
    kh TEXT NOT NULL UNIQUE,   -- 卡号
    kzt TEXT NOT NULL,         -- 卡状态: 0 已制卡, 1 正常
    yhmc TEXT NOT NULL,        -- 银行
    fkrq TEXT NOT NULL         -- 发卡日期
) WITHOUT ROWID;
CREATE VIEW v_sbk AS           -- 对外只给卡号末四位
    SELECT sfzh, yhmc, substr(kh, -4) AS kh4,
           CASE kzt WHEN '0' THEN 'MADE' WHEN '1' THEN 'ACTIVE' WHEN '2' THEN 'LOST'
                    ELSE 'CANCELLED' END AS zt
    FROM t_sbk;
"""


def _human_resources(population: Population) -> Mapping[str, Rows]:
    # Children get their card with school, but for one in ten, whose parents were quick.
    early = {
        birth.child.id
        for birth in population.births
        if birth.child and birth.certificate.endswith("6")
    }
    return {
        "t_sbk": (
            (one.id, card_number(number), "1", BANK, "2023-06-01")
            for number, one in enumerate(population.people, start=1)
            if one.age(REGISTER_DAY) >= _SCHOOL or one.id in early
        )
    }


def card_number(number: int) -> str:
    """Return the number of the social card that was the n-th to be made."""
    return f"K99{number:06d}"


_TAX = """
CREATE TABLE t_yjfe (          -- 应缴费额
    sfzh TEXT NOT NULL,
    nd TEXT NOT NULL,          -- 年度
    yjje NUMERIC NOT NULL,     -- 应缴金额, 元
    jfzt TEXT NOT NULL,        -- 缴费状态: 0 未缴, 1 已缴
    jzrq TEXT NOT NULL,        -- 截止日期
    PRIMARY KEY (sfzh, nd)
) WITHOUT ROWID;
CREATE VIEW v_yjfe AS
    SELECT sfzh, nd, yjje, jfzt = '1' AS yj, jzrq FROM t_yjfe;
"""


def _tax(population: Population) -> Mapping[str, Rows]:
    year = REGISTER_DAY.year
    return {
        "t_yjfe": (
            (one.id, str(year), PREMIUM_YUAN, "1", f"{year}-12-31")
            for one in population.people
            if one.age(REGISTER_DAY) < _ADULT
        )
    }


REGISTERS: Mapping[str, Register] = {
    "ga": Register(_POLICE, _police),
    "mz": Register(_CIVIL_AFFAIRS, _civil_affairs),
    "wj": Register(_HEALTH, _health),
    "jk": Register(_DISEASE_CONTROL, _disease_control),
    "yb": Register(_MEDICAL_INSURANCE, _medical_insurance),
    "rs": Register(_HUMAN_RESOURCES, _human_resources),
    "sw": Register(_TAX, _tax),
}
"""Each department's register, by provider."""


def _day(start: date, days: int) -> str:
    return (start + timedelta(days=days)).isoformat()
