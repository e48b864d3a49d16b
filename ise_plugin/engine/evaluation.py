"""fastreid's evaluator without a compiler."""

from fastreid.evaluation import ReidEvaluator


class PortableReidEvaluator(ReidEvaluator):
    """fastreid's evaluator where it must not compile.

    Stock fastreid builds a Cython extension inside site-packages with ``make`` at first use, and ends the process when
    that fails. Its numpy path gives the same numbers and is taken whenever the extension is not there.
    """

    def _compile_dependencies(self) -> None:
        """Nothing to do: ``fastreid.evaluation.rank`` falls back to numpy by itself."""
