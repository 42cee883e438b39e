# What only the Siamese CNN has: its export to ONNX, for classification on CPU cores.
import re

if CONFIG.models_from is None and CONFIG.cnn.enabled:

    rule export_cnn:
        """Write a CNN as ONNX, checked against torch."""
        input:
            training="<results>/models/{model}/training.json",
            weights="<results>/models/{model}/model.safetensors",
        output:
            "<results>/models/{model}_onnx/model.onnx",
            "<results>/models/{model}_onnx/manifest.json",
        log:
            "<results>/logs/export_cnn/{model}.log",
        benchmark:
            "<results>/benchmarks/export_cnn/{model}.tsv"
        wildcard_constraints:
            model="|".join(map(re.escape, CONFIG.cnn.training_names("cnn"))),
        conda:
            "../envs/gpu.yaml"
        container:
            image("gpu")
        threads: 1
        resources:
            mem_mb=scaled(4000),
            runtime=scaled(30),
        params:
            code=code("export_cnn.py"),
        script:
            "../scripts/export_cnn.py"
