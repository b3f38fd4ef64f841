"""What a storage URI may name. Every hostile one is refused with a sentence, before anything is resolved."""

import pytest

from slipway_runtime.fetch.failures import FetchError, Why
from slipway_runtime.fetch.uri import Bucket, Hub, Registry, Remote, Web, parse

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("s3://models/resnet/7", Bucket("s3", "", "models", "resnet/7", is_folder=False)),
        ("s3://models/resnet/7/", Bucket("s3", "", "models", "resnet/7", is_folder=True)),
        ("s3://models", Bucket("s3", "", "models", "", is_folder=True)),
        ("gs://my.bucket-1/a=b/c+d", Bucket("gs", "", "my.bucket-1", "a=b/c+d", is_folder=False)),
        ("az://account1/models/m.tar.zst", Bucket("az", "account1", "models", "m.tar.zst", is_folder=False)),
        ("https://Example.com/a/m%20x.pt", Web("example.com", 443, "/a/m%20x.pt", "m x.pt")),
        ("https://h:8443/m.pt", Web("h", 8443, "/m.pt", "m.pt")),
        ("https://[2001:DB8::1]:8443/m.pt", Web("2001:db8::1", 8443, "/m.pt", "m.pt")),
        ("https://h/a@b.pt", Web("h", 443, "/a@b.pt", "a@b.pt")),
        ("hf://org/name", Hub("org/name", "main", "")),
        ("hf://org/name@v1.0/sub/x.safetensors", Hub("org/name", "v1.0", "sub/x.safetensors")),
        ("oci://registry.example/team/m:1.0", Registry("registry.example", 443, "team/m", "1.0")),
        (f"oci://registry:5000/m@{DIGEST}", Registry("registry", 5000, "m", DIGEST)),
        (f"oci://registry:5000/m:1@{DIGEST}", Registry("registry", 5000, "m", DIGEST)),
        ("pvc://claim/path", None),
    ],
)
def test_a_plain_uri_names_one_thing(uri: str, named: Remote | None) -> None:
    assert parse(uri) == named


ADDRESSES_IN_ODD_NOTATIONS = [
    "2852039166", "0xA9FEA9FE", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "0251.254.169.254", "169.254.43518",
    "169.16689662", "169.254.169.0xfe", "0x7f.1", "127.1", "127.0.1", "2130706433", "0177.0.0.1", "017700000001", "0",
    "0x0", "00.00.00.00", "169.254.169.254.", "169.254.169.0254", "0300.0250.0.1", "192.168.257", "0xc0a80001",
    "1.2.3", "1.2.3.4.5", "256.1.1.1", "1.1.1.999", "::1", "[::1", "::1]", "[::1]x", "[]", "[:]", "[1.2.3.4]",
    "[fe80::1%25eth0]", "[::ffff:0x7f.1]", "[v1.fe80::1]", "[1:2:3:4:5:6:7:8:9]", "[::gggg]",
]  # fmt: skip
WRONG_HOSTS = [
    "", "-", ".", "..", "a..b", "-a.b", "a-.b", ".a", "a.", "a" * 64, "a." * 127 + "aa", "user@h", "user:pw@h",
    "user:pw@169.254.169.254", "h@169.254.169.254", "h:80@169.254.169.254", "169.254.169.254%40h", "h%00", "h%0d%0aX:y",
    "h%2f..", "h%5c", "h:", "h:0", "h:65536", "h:99999", "h:-1", "h:80:80", "h:8o", "h,i", "h;i", "h&i", "h=i", "h!",
    "(h)", "h'", "*.h", "h*",
]  # fmt: skip
ODD_CHARACTERS = [
    "https://h\\@169.254.169.254/x", "https://h\\x", "https://h/x\r\nHost: evil", "https://h/x\ny", "https://h/\tx",
    "https://h/x y", "https://h/x\0y", "https://h/é", "https://h/x?token=1", "https://h/x#y", "https://169。254。169。254/x",
    "https://①②⑦.⓪.⓪.①/x", "https://ｌocalhost/x", "https://h/<x>", 'https://h/"x"', "https://h/{x}", "https://h/x|y",
    "https://h/^x", "https://h/`x`", " https://h/x", "https://h/x ", "\ufeffhttps://h/x", "https://h/\u202ex", "https://h/x\x7f",
    "s3://b0b/" + "x" * 1024,
]  # fmt: skip
CLIMBING = [
    "https://h/../x", "https://h/a/../x", "https://h/%2e%2e/x", "https://h/.%2e/x", "https://h/%2E%2E/x", "https://h/./x",
    "https://h/%2e/x", "https://h//x", "https://h/a//x", "https://h/..", "https://h/a%2fb", "https://h/a%2Fb",
    "https://h/%252e%252e/x", "https://h/%", "https://h/%zz", "https://h/%c0%ae%c0%ae/x", "https://h/%ff", "https://h/%00",
    "https://h/%0a", "https://h/%5c..%5cx", "https://h/%3fx", "https://h/%23x", "https://h", "https://h/", "https://h/x/",
    "s3://../x", "s3://bkt/../x", "s3://bkt/a/../../x", "s3://bkt//x", "s3://bkt/./x", "s3://bkt/%2e%2e/x", "s3://bkt/a%20b",
    "gs://bkt/..", "az://account1/models/../x", "hf://org/name/../x", "hf://org/../x", "oci://h/../m:1", "oci://h/a//m:1",
]  # fmt: skip
WRONG_SHAPES = [
    "", "s3", "s3:", "s3:/", "s3://", "s3:///key", "s3://B/key", "s3://b/key", "s3://b_/", "s3://-b/k",
    "s3://169.254.169.254:80/x",
    "s3://b@c/key", "s3://bkt:80/key", "S3://bkt/key", "gs://", "az://ACCOUNT/models/k", "az://a/models/k",
    "az://account1", "az://account1/", "hf://", "hf://name", "hf://org/", "hf:///name", "hf://org/name@",
    "hf://org/na me",
    "hf://org/name@a@b", "hf://org/name@../x", "hf://org/name@-x", "hf://.org/name", "hf://org/name@main/%2e%2e",
    "oci://h", "oci://h/m", "oci://h/m:", "oci://h/m@sha256:aa", f"oci://h/m@{DIGEST}0", "oci://h/M:1", "oci://h/m:../x",
    "oci://h/m:1:2", "oci://u@h/m:1", "oci://h/m@md5:" + "a" * 32, "http://h/x", "ftp://h/x", "gopher://h/x", "dict://h/x",
    "ldap://h/x", "javascript:alert(1)", "data:,x", "//h/x", "/etc/passwd", "file:/etc/passwd", "jar:https://h/x!/y",
    "s3n://bkt/k", "s3a://bkt/k", "https:/h/x", "https:h/x", "https://https://h/x", "url:https://h/x",
    "git://h/x", "ssh://h/x", "sftp://h/x", "hdfs://h/x", "https;//h/x", "HTTPS://h/x", "https\u200b://h/x",
]  # fmt: skip


HOSTILE = [
    *(f"https://{host}/x" for host in ADDRESSES_IN_ODD_NOTATIONS + WRONG_HOSTS),
    *(f"oci://{host}/m:1" for host in ADDRESSES_IN_ODD_NOTATIONS),
    *ODD_CHARACTERS,
    *CLIMBING,
    *WRONG_SHAPES,
]


@pytest.mark.parametrize("uri", HOSTILE)
def test_a_hostile_uri_is_refused_with_a_sentence(uri: str) -> None:
    with pytest.raises(FetchError) as refused:
        parse(uri)
    assert refused.value.why is Why.URI
    assert str(refused.value).startswith("storageUri ")
    assert len(str(refused.value)) < 400


def test_what_might_be_a_password_is_not_repeated() -> None:
    with pytest.raises(FetchError) as refused:
        parse("https://user:s3cr3t@host/x")
    assert "s3cr3t" not in str(refused.value)
