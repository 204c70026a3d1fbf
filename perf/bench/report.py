def html(results):
    return ""
