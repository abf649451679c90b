"""Base: the model every method starts from, evaluated as it is. Nothing is trained.

Sampling     none
Loss         none
Its row says what a table's gains are gains over; it moves by 10 to 20 points with the prompt template alone
(bethgelab/sober-reasoning), so it is always measured here, with the template of all other rows.
"""

from engine.words import Stage

stages = (Stage("base", method=None),)
