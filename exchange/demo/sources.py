"""How each department's tables answer for evidence types, as configuration data."""

from collections.abc import Mapping
from typing import Any

_BIRTH_FIELDS = {
    "CSYXZMBH": "zmbh",
    "XSE_XM": "xse_xm",
    "XSE_XBDM": "xse_xb",
    "XSE_CSSJ": "cssj",
    "XSE_YZ": "yz",
    "XSE_TZ": "tz",
    "XSE_SC": "sc",
    "CSDD_S": "csd_s",
    "CSDD_SD": "csd_sd",
    "CSDD_XQ": "csd_xq",
    "CSD_QHDM": "csd_qh",
    "ZCJGMC": "jg_mc",
    "ZCJGDM": "jg_dm",
    **{
        f"{parent}_{field}": f"{parent.lower()}_{column}"
        for parent in ("MQ", "FQ")
        for field, column in {
            "XM": "xm",
            "NL": "nl",
            "GJ": "gj",
            "MZ": "mz",
            "ZZ": "zz",
            "SFZJLX": "zjlx",
            "SFZJHM": "zjhm",
            "HJ": "hj",
        }.items()
    },
    "LZR_XM": "lzr_xm",
    "LZR_YXSEGX": "lzr_gx",
    "LZR_SFZJHM": "lzr_zjhm",
    "QFJG_MC": "qf_jg",
    "QFJG_QHDM": "qf_qh",
    "QFJG_ZZJGDM": "qf_dm",
    "QF_RQ": "qf_rq",
    "QF_LX": "qf_lx",
    "HFYY": "hfyy",
    "BFYY": "bfyy",
}
SOURCES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ga": {
        "identity@1": {
            "table": "v_rk",
            "keys": [{"id": "gmsfhm"}],
            "fields": {
                "id": "gmsfhm",
                "name": "xm",
                "alive": "zt",
                "sex": "xbdm",
                "birth_date": "csrq",
                "nation": "mzdm",
                "expiry": "zjyxq",
            },
            "compare": {"name": "xm"},
        },
        "household@1": {
            "table": "v_hj",
            "keys": [{"id": "gmsfhm"}],
            "fields": {
                "household_no": "hh",
                "household_type": "hlb",
                "head_name": "hzxm",
                "relation_to_head": "yhzgx",
                "address": "dz",
                "region": "xzqh",
                "members": {
                    "rows": "t_czrk",
                    "joined_by": {"hh": "hh"},
                    "columns": {"id": "gmsfhm", "name": "xm", "relation": "yhzgx"},
                    "order_by": "yhzgx",
                },
            },
            "coverage": {"regions": ["990100"], "region_column": "xzqh"},
        },
        "child_registration@1": {
            "table": "v_csdj",
            "keys": [{"CSYXZMBH": "cszmbh"}],
            "fields": {
                "id": "gmsfhm",
                "name": "xm",
                "household_no": "hh",
                "relation_to_head": "yhzgx",
                "region": "xzqh",
                "police_station": "pcsdm",
                "registered_on": "djrq",
            },
        },
    },
    "mz": {
        "marriage@1": {
            "table": "v_hydj",
            "keys": [{"id": "sfzh"}],
            "fields": {
                "spouse_id": "po_sfzh",
                "status": "hyzt",
                "cert_no": "djzh",
                "reg_date": "djrq",
                "reg_office": "djjg",
            },
            "compare": {"spouse_id": "po_sfzh", "status": "hyzt"},
            "newest_by": "djrq",
        },
    },
    "wj": {
        "birth_certificate@1": {
            "table": "t_cszm",
            "keys": [
                {"CSYXZMBH": "zmbh"},
                {"mother_id": "mq_zjhm", "birth_date": "csrq"},
            ],
            "fields": _BIRTH_FIELDS,
            "compare": {"CSYXZMBH": "zmbh", "MQ_SFZJHM": "mq_zjhm", "MQ_XM": "mq_xm"},
        },
        "parenting_file@1": {
            "table": "t_yezd",
            "keys": [{"CSYXZMBH": "zmbh"}],
            "fields": {"file_no": "dabh", "opened_on": "jdrq", "institution": "jdjg"},
        },
    },
    "jk": {
        "vaccination@1": {
            "table": "t_jzz",
            "keys": [{"CSYXZMBH": "zmbh"}],
            "fields": {
                "card_no": "jzzh",
                "opened_on": "jdrq",
                "doses": {
                    "rows": "t_jzjl",
                    "joined_by": {"jzzh": "jzzh"},
                    "columns": {"vaccine": "ymmc", "date": "jzrq", "unit": "jzdw"},
                    "order_by": "xh",
                },
            },
        },
    },
    "yb": {
        "medical_insurance@1": {
            "table": "v_cbxx",
            "keys": [{"id": "sfzh"}],
            "fields": {
                "status": "zt",
                "scheme": "xz",
                "region": "cbdqh",
                "from": "qsrq",
            },
        },
        "enrolment@1": {
            "table": "v_cbxx",
            "keys": [{"id": "sfzh"}],
            "where": {"xz": "390"},
            "fields": {"status": "zt", "region": "cbdqh", "from": "qsrq"},
        },
        "maternity_claim@1": {
            "table": "v_syfy",
            "keys": [{"mother_id": "sfzh"}],
            "newest_by": "fmrq",
            "fields": {
                "settled": {"column": "yjs", "type": "boolean"},
                "amount": {"column": "zje", "type": "number"},
                "delivered_on": "fmrq",
            },
        },
    },
    "sw": {
        "premium@1": {
            "table": "v_yjfe",
            "keys": [{"id": "sfzh"}],
            "newest_by": "nd",
            "fields": {
                "year": "nd",
                "amount": {"column": "yjje", "type": "number"},
                "paid": {"column": "yj", "type": "boolean"},
                "due_on": "jzrq",
            },
        },
    },
    "rs": {
        "social_card@1": {
            "table": "v_sbk",
            "keys": [{"id": "sfzh"}],
            "fields": {
                "status": "zt",
                "card_tail": "kh4",
                "bank": "yhmc",
            },
        },
    },
}
"""How each register's columns become the fields of evidence types, by provider."""
