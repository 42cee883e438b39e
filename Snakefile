# The workflow is in workflow/Snakefile, where the Snakemake workflow catalog and snakedeploy expect it.
# What `include:` calls, which would forget the default target.
workflow.include("workflow/Snakefile", overwrite_default_target=True)
