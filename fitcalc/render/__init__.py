"""Views of a report: text, CSV, Markdown, explanation. They read spec.report only and compute nothing new."""
