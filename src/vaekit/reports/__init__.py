"""Figures of models, charts, tables and reports."""
