"""Triton as a model's server: `python -m slipway_runtime.triton`.

    files     what lies there, and that none of it leads elsewhere or is code that nobody allowed
    layout    which models that is, each with its versions
    config    each model's config.pbtxt: of the file, of the arguments, of the operator, in this order
    install   where Triton is, and which backends it has
    links     the repository that Triton reads: folders of links, nothing is copied
    adapter   formats whose backend this Triton lacks, run inside its Python backend (`stub`)
    server    Triton's process, its arguments, its end and why

Imports neither torch nor what serves in `slipway-runtime`, which is another server.
"""
