# Every family of models in the table (workflow/src/nuvlm/models/table.py): training, classification, explanation.
# {model} is a training of a model, of which explanations have the first (workflow/src/nuvlm/models/trainings.py).
import re

for family, section in CONFIG.families.items():
    row = FAMILIES[family]
    names = "|".join(section.model_names(family))
    trainings = "|".join(map(re.escape, section.training_names(family)))
    training = section.training(section.model_names(family)[0])
    classification = section.classification()
    explanation = section.explanation()
    conditions = conditions_of(family, CONFIG.conditions)
    zoom = CONFIG.pixelmap.zoom if row.on_base else 1

    if CONFIG.models_from is None:

        rule:
            """Train one model of the family, once."""
            name:
                row.training_rule
            input:
                further_inputs(training),
                events="<results>/events.parquet",
                pixelmaps="<results>/pixelmaps.json",
            output:
                f"<results>/models/{{model}}/{row.weights}",
                "<results>/models/{model}/manifest.json",
                training="<results>/models/{model}/training.json",
            log:
                f"<results>/logs/{row.training_rule}/{{model}}.log",
            benchmark:
                f"<results>/benchmarks/{row.training_rule}/{{model}}.tsv"
            wildcard_constraints:
                model=trainings,
            # The longest first; jobs that wait for several models fill the gaps.
            priority: training.minutes
            conda:
                f"../envs/{training.environment}.yaml"
            container:
                image(training.environment)
            threads: training.threads
            resources:
                mem_mb=of_attempt(training.memory_mb, training.resumes),
                runtime=of_attempt(training.minutes, training.resumes),
                gpu=training.gpus,
                nodes=training.nodes,
            params:
                code=code("train.py", training.run, files=texts(training)),
                run=training.run,
                settings=of_request("training", "settings"),
                # A function of resources is not tracked: these options change no result.
                untracked=lambda wildcards, resources: of_request(
                    "training", "untracked"
                )(wildcards),
                inputs=request_inputs("training"),
                zoom=zoom,
                # Beside the output: Snakemake deletes outputs before a retry.
                checkpoints=lambda wildcards: f"results/{CONFIG.run}/checkpoints/{wildcards.model}",
                tensorboard=lambda wildcards: f"results/{CONFIG.run}/tensorboard/{wildcards.model}",
            script:
                "../scripts/train.py"

    rule:
        """Classify one part of the events with a model of the family, under all conditions or one."""
        name:
            f"classify_{family}"
        input:
            further_inputs(classification),
            model="<models>/{model}/training.json",
            weights=f"<models>/{{model}}/{row.weights}",
            events="<results>/events.parquet",
            pixelmaps="<results>/pixelmaps.json",
        output:
            # A table and its cost for each condition of the job.
            expand(
                "<results>/predictions/{model}/{condition}/{part}.{kind}",
                condition=(
                    conditions if CONFIG.conditions_in_one_job else "{condition}"
                ),
                kind=["parquet", "json"],
                allow_missing=True,
            ),
        log:
            f"<results>/logs/classify_{family}/{PREDICTION}.log",
        benchmark:
            f"<results>/benchmarks/classify_{family}/{PREDICTION}.tsv"
        wildcard_constraints:
            model=trainings,
            condition="|".join(conditions),
        conda:
            f"../envs/{classification.environment}.yaml"
        container:
            image(classification.environment)
        threads: classification.threads
        resources:
            mem_mb=scaled(classification.memory_mb),
            runtime=scaled(classification.minutes),
            gpu=classification.gpus,
        params:
            code=code("classify.py", classification.run, files=texts(classification)),
            run=classification.run,
            settings=of_request("classification", "settings"),
            inputs=request_inputs("classification"),
            zoom=zoom,
        script:
            "../scripts/classify.py"

    if explanation is not None:

        rule:
            """Explain the predictions for chosen events of one part."""
            name:
                f"explain_{family}"
            input:
                list(explained_predictions("{part}").values()),
                further_inputs(explanation),
                model="<models>/{model}/training.json",
                weights=f"<models>/{{model}}/{row.weights}",
                events="<results>/events.parquet",
                pixelmaps="<results>/pixelmaps.json",
            output:
                explanation_files(
                    f"<results>/explanations/{{model}}/{{part}}{SUFFIXES[row.explains]}"
                ),
            log:
                f"<results>/logs/explain_{family}/{{model}}/{{part}}.log",
            benchmark:
                f"<results>/benchmarks/explain_{family}/{{model}}/{{part}}.tsv"
            wildcard_constraints:
                model=names,
            conda:
                f"../envs/{explanation.environment}.yaml"
            container:
                image(explanation.environment)
            threads: explanation.threads
            resources:
                mem_mb=scaled(explanation.memory_mb),
                runtime=scaled(explanation.minutes),
                gpu=explanation.gpus,
            params:
                code=code("explain.py", explanation.run, files=texts(explanation)),
                run=explanation.run,
                settings=of_request("explanation", "settings"),
                inputs=request_inputs("explanation"),
                zoom=zoom,
                predictions=lambda wildcards: explained_predictions(wildcards.part),
                condition=CONFIG.conditions[0],
                n_events=EXPLAINED,
                seed=CONFIG.dataset.seed,
                out=lambda wildcards: explanation_path(wildcards.model, wildcards.part),
            script:
                "../scripts/explain.py"
