"""How good a network is.

| module | holds |
| --- | --- |
| network_answers | the answers of a network to a whole split (`Answers`) |
| accuracy | the figures that judge them: accuracy, drop, agreement, chance |
| class_measures | precision, recall, ranking of each class; calibration |
| boundary_benchmark | ODS and OIS of outlines |
| gate | the verdict on a variant, and on a build (`verdict`, `judge`, `require_pass`) |
| validation_trial | the gate tried on validation images, while the network can still change |
| in_engines | every file in every engine, on the test split: the verify stage's work |
| verification | its findings, as the run folder keeps them |
| searched | the findings of a search |
| report/ | report.json, the pages that draw from it, and the tables |
"""
