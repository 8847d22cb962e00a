# Stopped from outside after 540 s, at step 123 of 150; `seconds` are those of the steps up to step 100.
longhaul train configs/smollm2_addition.toml --set model.path=models/smollm2 --set run.seed=1
