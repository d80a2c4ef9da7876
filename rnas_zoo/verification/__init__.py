"""Evidence of robustness: protocols, judgement, intervals, reports."""
