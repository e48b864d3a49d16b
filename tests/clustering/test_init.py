import subprocess
import sys


def test_the_import_loads_nothing_slow_that_only_some_functions_need():
    slow = {"sklearn", "faiss", "fastreid", "infomap"}
    code = f"import sys, ise_plugin.clustering as c; c.DBSCAN; print(*{slow} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
