"""Problems keep their codes when worker processes return them and when they are written as JSON."""

import json
import pickle

from nnunet_xattnres.convert.problems import Problem, ProblemCode, UnusableError


def test_codes_are_documented():
    assert all(code.meaning.endswith(".") and code.value.replace("-", "").isalpha() for code in ProblemCode)


def test_a_problem_from_another_process():
    problem = UnusableError("1.png", ProblemCode.DAMAGED, "the file is damaged").problem
    assert pickle.loads(pickle.dumps(problem)) == problem == Problem("1.png", ProblemCode("damaged"), problem.text)
    assert json.loads(json.dumps(problem.code)) == "damaged"
