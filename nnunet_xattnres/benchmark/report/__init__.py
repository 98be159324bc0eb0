"""What may be said of finished trainings: scores, paired statistics, tables, pictures and pages."""
