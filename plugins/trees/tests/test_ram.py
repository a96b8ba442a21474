from mccore_trees.ram import mccore_tree_backend

from mccore.api import Extension, TreeBackend
from mccore.testing import TreeBackendSuite


class TestRam(TreeBackendSuite):
    def extension(self) -> Extension[TreeBackend]:
        return mccore_tree_backend()
