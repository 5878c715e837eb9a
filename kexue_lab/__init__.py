"""Articles of 科学空间 (Scientific Spaces) as runnable, checkable mathematics.

The flat modules (`claims`, `exercises`, `explore`, `figures`, `training`, `catalog`) serve every
notebook; each series is a sub-package with one module of plain mathematics per article.
"""
