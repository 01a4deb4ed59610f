"""The contract of distillers and of sources of soft labels, for your own as for the zoo's.

    from kdzoo.testing import check_distiller, check_source
    check_distiller(MyMethod)       # a class, or a registered name
    check_source("my_labels")

With pytest, a test for each rule:

    @pytest.mark.parametrize("check", distiller_checks(MyMethod), ids=str)
    def test_my_method_keeps_the_contract(check):
        check()
"""

from kdzoo.testing.contract import Check, ContractError
from kdzoo.testing.distillers import check_distiller, distiller_checks
from kdzoo.testing.inputs import Case, cases, make_case
from kdzoo.testing.networks import NetworkPair, network_pairs
from kdzoo.testing.sources import check_source, source_checks

__all__ = [
    "Case",
    "Check",
    "ContractError",
    "NetworkPair",
    "cases",
    "check_distiller",
    "check_source",
    "distiller_checks",
    "make_case",
    "network_pairs",
    "source_checks",
]
