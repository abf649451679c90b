"""The text of the model card that `assay export` writes (engine/export.py): Jinja over the records of a stage."""

TEMPLATE = """---
{{ card_data }}
---

# {{ name }}
{%- if flaws %}

> [!CAUTION]
> **NOT A RESULT. Do not compare these weights with others:**
{%- for flaw in flaws %}
> {{ flaw }}
{%- endfor %}
{%- endif %}

Weights of stage `{{ done.stage }}` of run `{{ done.run }}`, seed {{ done.seed }}, made with Assay, a referee for LLM
post-training methods. Started from {{ base }}; {{ "{:,}".format(done.parameters) }} parameters, {{ done.updates }} updates.
Digest of the stage: `{{ done.digest }}`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained(PATH), AutoTokenizer.from_pretrained(PATH)
```

## Method
{%- if claim %}

`{{ spec.method.name }}`, from the header of its file:

```text
{{ claim }}
```

| Setting | Value |
|---|---|
{{ settings }}
{%- else %}

None: this is the base model as it is.
{%- endif %}

## Data

Training problems: sha256 `{{ done.identity.data }}` of the normalised file. Prompts were made
with the template `{{ spec.template }}`, sha256 `{{ done.identity.template[:12] }}`; a response is rewarded if the grader
`{{ done.identity.grader }}` finds it correct.
{%- if train %}

## Training settings

| Setting | Value |
|---|---|
{{ train }}
{%- endif %}

## Evaluation
{%- if scores %}

| Benchmark | Metric | Points | 95 % interval | Problems | Cut at the token limit (%) |
|---|---|---|---|---|---|
{%- for row in scores %}
| {{ row.benchmark }} | {{ row.metric }} | {{ "%.1f" | format(row.accuracy | float) }} | {{ row.interval }} | {{
row.problems }} | {{ "%.1f" | format(row.truncated | float) }} |
{%- endfor %}

Every sample has a seed of its own; a response cut at the token limit is wrong. Intervals are Wilson's, over problems alone.
{%- for template, grader in protocol %}
Template `{{ template }}`; grader `{{ grader }}`.
{%- endfor %}
{%- if sampling %}
Sampling: {{ sampling }}.
{%- endif %}
{%- else %}

No scores of this checkpoint lie beside it.
{%- endif %}

## Certificate

{{ "Every check passed" if certificate.passed else "NOT EVERY CHECK PASSED" }}; digest `{{ certificate.digest }}`, in full in
`certificate.json`. Checked in the configuration that trained:
{%- for key, value in certificate.configuration.items() %} {{ key }} {{ value }}{{ "" if loop.last else "," }}{% endfor %}.

| Check | Status | Measured | Needed |
|---|---|---|---|
{%- for check in checks %}
| {{ check.name }} | {{ check.status }} | {{ check.measured }} | {{ check.limit }} |
{%- endfor %}

## Costs

| Cost | This stage | All {{ stages }} it took, the base model included |
|---|---|---|
{{ costs }}

FLOPs are counted as 2N per sampled and 6N per trained token (none for trajectories that move nothing), and 2N for each
further pass over it.

## Provenance

Commit `{{ made.git.commit or "unknown" }}`{{ ", with uncommitted changes" if made.git.dirty }}; {{ made.started }} to
{{ made.ended }} on {{ made.hardware.processor }}, {{ made.hardware.logical_cores }} cores{{
", " + made.hardware.gpus | join(", ") if made.hardware.gpus }}; Python {{ made.python }}.

```text
{{ command }}
```

| Package | Version |
|---|---|
{{ packages }}

## Limits

- One training seed ({{ done.seed }}). What another seed would give is not in the intervals above.
- Trained and graded on problems with one checkable final answer; nothing else was measured, safety and bias among it.
- The certificate says that the optimizer did what the method asks for. It does not say that the method is good.
- The grader reads the last boxed answer and has errors of its own.
"""
