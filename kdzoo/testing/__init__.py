"""The contracts of distillers, sources of soft labels, networks and data sets, for yours as for the zoo's.

    from kdzoo.testing import check_dataset, check_distiller, check_model, check_source
    check_distiller(MyMethod)       # a class, or a registered name
    check_source("my_labels")
    check_model("my_network")
    check_dataset("my_data", root="folder")

With pytest, a test for each rule:

    @pytest.mark.parametrize("check", distiller_checks(MyMethod), ids=str)
    def test_my_method_keeps_the_contract(check):
        check()
"""

from kdzoo.testing.contract import Check, ContractError
from kdzoo.testing.datasets import check_dataset, dataset_checks
from kdzoo.testing.distillers import check_distiller, distiller_checks
from kdzoo.testing.inputs import Case, cases, make_case
from kdzoo.testing.models import check_model, model_checks
from kdzoo.testing.networks import NetworkPair, network_pairs
from kdzoo.testing.sources import check_source, source_checks

__all__ = [
    "Case",
    "Check",
    "ContractError",
    "NetworkPair",
    "cases",
    "check_dataset",
    "check_distiller",
    "check_model",
    "check_source",
    "dataset_checks",
    "distiller_checks",
    "make_case",
    "model_checks",
    "network_pairs",
    "source_checks",
]
