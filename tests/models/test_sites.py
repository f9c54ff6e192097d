"""Addresses: written as TransformerLens writes them, read back exactly, refused when unknown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import OptionError
from interp.models.anatomy import TESTED_ARCHITECTURES
from interp.sites import BLOCK_HOOKS, MATRICES, Site, Weight, contribution, neurons
from tests import sites_page


@given(st.integers(0, 10_000), st.sampled_from(sorted(BLOCK_HOOKS)))
def test_a_site_is_read_back_from_its_name(layer, hook):
    site = Site(layer, hook)
    assert str(site) == f"blocks.{layer}.{hook}"
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    "name",
    [
        "",
        "blocks.x.mlp.hook_post",
        "blocks.-1.mlp.hook_post",
        "block.0.mlp.hook_post",
        "blocks.0.",
        "hook_embed",
        "blocks.0.mlp.hook_past",
        "blocks.0.mlp.hook_post.more",
        "blocks.0.mlp.hook_post\n",
        " blocks.0.mlp.hook_post",
    ],
)
def test_what_is_no_site_is_refused(name):
    with pytest.raises(OptionError, match="site") as caught:
        Site.parse(name)
    assert "\n" not in str(caught.value)


def test_names_of_the_two_sites_that_edits_need():
    assert str(neurons(3)) == "blocks.3.mlp.hook_post"
    assert str(contribution(3)) == "blocks.3.mlp.out.hook_out"


def test_matrices():
    assert str(Weight(2, "mlp.out")) == "blocks.2.mlp.out"
    assert [str(Weight(0, name)) for name in MATRICES][:2] == ["blocks.0.attn.q", "blocks.0.attn.k"]
    with pytest.raises(OptionError, match=r"unknown matrix 'mlp\.down'; known: attn\.q"):
        Weight(0, "mlp.down")


def test_sites_are_ordered_by_layer_and_can_be_keys():
    sites = [Site(2, "hook_resid_pre"), Site(0, "mlp.hook_post"), Site(0, "hook_resid_pre")]
    assert [site.layer for site in sorted(sites)] == [0, 0, 2]
    assert len({*sites, Site(2, "hook_resid_pre")}) == 3


def test_the_page_of_sites_is_what_the_code_says():
    """Of a small model of every proven family; `python -m tests.sites_page` writes it anew."""
    text = sites_page.PAGE.read_text(encoding="utf-8")
    found = sites_page.anatomies()
    assert {anatomy.architecture for anatomy in found.values()} == {
        name.split()[0] for name in TESTED_ARCHITECTURES
    }
    assert sites_page.written(text, sites_page.tables(found)) == text
