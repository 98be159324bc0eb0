"""The report of a benchmark: results, scores, paired statistics, tables, figures and pages."""
