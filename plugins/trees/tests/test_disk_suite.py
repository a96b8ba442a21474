from mccore_trees.disk import DiskOptions, mccore_tree_backend

from mccore.api import Extension, Options, TreeBackend
from mccore.testing import TreeBackendSuite


class TestDisk(TreeBackendSuite):
    persistent = True
    shared = True

    def extension(self) -> Extension[TreeBackend]:
        return mccore_tree_backend()


class TestDiskWithoutSync(TestDisk):
    def options(self) -> Options:
        return DiskOptions(fsync=False)
