//! XML that is parsed, and XML that is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use pushlark_xmpp::{Element, MAX_DEPTH, MAX_STANZA_BYTES, ParseError, is_xml_text};

fn parse(xml: &str) -> Element {
    Element::parse(xml).unwrap_or_else(|error| panic!("{xml:?} is refused: {error}"))
}

fn refusal(xml: &str) -> ParseError {
    match Element::parse(xml) {
        Ok(element) => panic!("{xml:?} is taken, as {element}"),
        Err(error) => error,
    }
}

#[track_caller]
fn assert_malformed(xml: &str) {
    let error = refusal(xml);
    assert!(matches!(error, ParseError::Malformed(_)), "{xml:?}: {error:?}");
}

#[test]
fn elements_with_different_prefixes_of_one_namespace_are_equal() {
    let element = parse("<a xmlns='urn:u'><b c='1'/></a>");
    for other in [
        "<p:a xmlns:p='urn:u'><p:b c='1'/></p:a>",
        "<q:a xmlns:q='urn:u' xmlns:unused='urn:v'><b xmlns='urn:u' c='1'/></q:a>",
        "<a xmlns='&#117;rn&#x3a;u'><b c='1'/></a>",
        "<a xmlns=\"urn:u\" ><b\n\tc = \"1\" ></b ></a >",
    ] {
        assert_eq!(parse(other), element, "{other}");
    }
    for different in
        ["<a><b c='1'/></a>", "<a xmlns='urn:U'><b c='1'/></a>", "<urn:a xmlns:urn='u'><urn:b c='1'/></urn:a>"]
    {
        assert_ne!(parse(different), element, "{different}");
    }
}

#[test]
fn a_default_namespace_is_inherited_until_it_is_undeclared() {
    let root = parse("<a xmlns='u'><b xmlns=''><c/></b><d xmlns='v'><e/></d><f/></a>");
    let [b, d, f] = root.children().collect::<Vec<_>>()[..] else { panic!("{root}") };
    let inner = |element: &Element| element.children().next().unwrap().namespace().to_owned();
    assert_eq!([root.namespace(), b.namespace(), d.namespace(), f.namespace()], ["u", "", "v", "u"]);
    assert_eq!([inner(b), inner(d)], ["", "v"]);
    assert!(root.child("f", "u").is_some() && root.child("f", "").is_none());
}

#[test]
fn a_default_namespace_does_not_apply_to_attributes() {
    assert_eq!(parse("<p:a xmlns='v' xmlns:p='u' p:b='1' b='2'/>").attribute("b"), Some("2"));
    assert_eq!(parse("<p:a xmlns:p='u' p:b='1'/>").attribute("b"), None);
    assert_eq!(parse("<a xmlns='u' b='1'/>").attribute("b"), Some("1"));
    assert_eq!(parse("<a xmlns='u' xml:lang='en'/>").attribute("lang"), None);
    assert_eq!(parse("<a xmlns='u' xmlns:p='v'/>").attribute("xmlns"), None);
}

#[test]
fn undeclared_prefixes_and_invalid_names_are_refused() {
    for xml in [
        "<p:a/>",
        "<a p:b='1'/>",
        "<p:a xmlns:p=''/>",
        "<a><p:b xmlns:p='u'/><p:c/></a>",
        "<a xmlns:xml='u'/>",
        "<a xmlns:xmlns='u'/>",
        "<:a/>",
        "<a:/>",
        "<p:a:b xmlns:p='u'/>",
        "<a :b='1'/>",
        "<1a/>",
        "<-a/>",
        "<a,/>",
        "<a 1b='1'/>",
        "<a\u{b}/>",
        "< a/>",
        "</>",
        "<>",
    ] {
        assert_malformed(xml);
    }
}

#[test]
fn a_duplicate_attribute_is_refused_by_qualified_and_by_expanded_name() {
    for xml in [
        "<a b='1' b='2'/>",
        "<a b='1' b='1'/>",
        "<a xmlns='u' xmlns='u'/>",
        "<a xmlns:p='u' xmlns:p='v'/>",
        "<a xmlns:p='u' p:b='1' p:b='2'/>",
        "<a xmlns:p='u' xmlns:q='u' p:b='1' q:b='2'/>",
        "<a xmlns:p='u' xmlns:q='&#117;' p:b='1' q:b='2'/>",
        "<a xmlns:p='u'><b xmlns:q='u' p:c='1' q:c='2'/></a>",
    ] {
        assert_malformed(xml);
    }
    parse("<a xmlns='u' xmlns:p='u' xmlns:q='v' b='1' p:b='2' q:b='3'/>");
}

#[test]
fn an_attribute_value_is_quoted_and_has_no_less_than_sign() {
    for xml in
        ["<a b/>", "<a b=1/>", "<a b=''c/>", "<a b='1/>", "<a ='1'/>", "<a b='<'/>", "<a b='1' / >", "<a b=='1'/>"]
    {
        assert_malformed(xml);
    }
    assert_eq!(parse("<a b='\"' c=\"'\" d='>' e=']]>' f=''/>").attribute("b"), Some("\""));
}

#[test]
fn predefined_and_numeric_references_are_decoded_once() {
    let all = "&lt;&gt;&amp;&apos;&quot;&#65;&#x1F600;&#xe9;&#9;&#10;&#13;&amp;lt;&amp;#65;";
    let decoded = "<>&'\"A\u{1f600}é\t\n\r&lt;&#65;";
    let element = parse(&format!("<a b='{all}'>{all}</a>"));
    assert_eq!(element.text(), decoded);
    assert_eq!(element.attribute("b"), Some(decoded));
}

#[test]
fn other_references_are_refused() {
    for reference in ["&nbsp;", "&LT;", "&a;", "&lt", "&", "&;", "& amp;", "&amp ;"] {
        refusal(&format!("<a>{reference}</a>"));
        refusal(&format!("<a b='{reference}'/>"));
        refusal(&format!("<a xmlns='{reference}'/>"));
    }
    for number in ["", "x", "+65", "x+41", "-1", "X41", " 65", "65a", "xG", "99999999999999999999"] {
        assert_malformed(&format!("<a>&#{number};</a>"));
        assert_malformed(&format!("<a b='&#{number};'/>"));
    }
}

#[test]
fn xml_that_xmpp_restricts_is_refused_everywhere() {
    for (restricted, named) in [
        ("<!DOCTYPE a>", "document type"),
        ("<!DOCTYPE a SYSTEM 'http://127.0.0.1/a.dtd'>", "document type"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]>", "document type"),
        ("<!-- a comment -->", "comment"),
        ("<?pi a?>", "processing instruction"),
    ] {
        for xml in [format!("{restricted}<a/>"), format!("<a>{restricted}</a>"), format!("<a/>{restricted}")] {
            let error = refusal(&xml);
            assert!(matches!(error, ParseError::Restricted(_)), "{xml}: {error:?}");
            assert!(error.to_string().contains(named), "{xml}: {error}");
        }
    }
    assert!(matches!(refusal("<a>&b;</a>"), ParseError::Restricted(_)));
}

#[test]
fn a_billion_laughs_attack_is_refused() {
    let entities: String =
        (1..10).map(|i| format!("<!ENTITY l{i} '{}'>", format!("&l{};", i - 1).repeat(10))).collect();
    let bomb =
        format!("<?xml version='1.0'?><!DOCTYPE l [<!ENTITY l0 'lol'>{entities}]><message><body>&l9;</body></message>");
    assert_eq!(refusal(&bomb), ParseError::Restricted("a document type declaration"));
}

#[test]
fn cdata_sections_are_text() {
    assert_eq!(parse("<a>x<![CDATA[<b/>&amp;]]>y</a>"), parse("<a>x&lt;b/>&amp;amp;y</a>"));
    assert_eq!(parse("<a><![CDATA[]]></a>"), parse("<a/>"));
    assert_eq!(parse("<a>]]<![CDATA[>]]></a>").text(), "]]>");
    for xml in ["<![CDATA[ ]]><a/>", "<a/><![CDATA[]]>", "<a><![CDATA[x]]", "<a>]]></a>", "<a>x]]>y<b/></a>"] {
        assert_malformed(xml);
    }
}

#[test]
fn line_ends_and_white_space_are_normalised_as_in_xml() {
    assert_eq!(parse("<a>1\r\n2\r3\n4\t5&#13;&#10;</a>").text(), "1\n2\n3\n4\t5\r\n");
    assert_eq!(parse("<a><![CDATA[1\r\n2\r3]]></a>").text(), "1\n2\n3");
    let attributes = parse("<a b='1\r\n2\t3\n4' c='1&#13;&#10;2&#9;3'/>");
    assert_eq!(attributes.attribute("b"), Some("1 2 3 4"));
    assert_eq!(attributes.attribute("c"), Some("1\r\n2\t3"));
}

#[test]
fn only_characters_that_xml_allows_are_accepted() {
    let may = [0x9, 0xa, 0xd, 0x20, 0x7f, 0x85, 0xd7ff, 0xe000, 0xfffd, 0x1_0000, 0x10_ffff];
    for c in may.map(|code| char::from_u32(code).unwrap()) {
        assert!(is_xml_text(&c.to_string()), "{c:?}");
        let element = parse(&format!("<a b='&#{};'>&#x{:x};</a>", c as u32, c as u32));
        assert_eq!((element.attribute("b"), &*element.text()), (Some(c.to_string().as_str()), c.to_string().as_str()));
        parse(&format!("<a b='{c}'>{c}<![CDATA[{c}]]></a>"));
    }
    let must_not = [0x0, 0x1, 0x8, 0xb, 0xc, 0xe, 0x1f, 0xfffe, 0xffff];
    for c in must_not.map(|code| char::from_u32(code).unwrap()) {
        assert!(!is_xml_text(&format!("a{c}")), "{c:?}");
        for form in [c.to_string(), format!("&#{};", c as u32), format!("&#x{:X};", c as u32)] {
            for xml in [format!("<a>{form}</a>"), format!("<a b='{form}'/>"), format!("<a xmlns:p='{form}'/>")] {
                assert_malformed(&xml);
            }
        }
        assert_malformed(&format!("<a><![CDATA[{c}]]></a>"));
        assert_malformed(&format!("<a/>{c}"));
    }
    for beyond in ["xD800", "xDFFF", "x110000"] {
        assert_malformed(&format!("<a>&#{beyond};</a>"));
        assert_malformed(&format!("<a b='&#{beyond};'/>"));
    }
}

#[test]
fn only_white_space_may_surround_the_root_element() {
    assert_eq!(parse(" \r\n\t<a/>\n "), parse("<a></a>"));
    for xml in [
        "",
        " \n",
        "text",
        "<a/><b/>",
        "<a/><a/>",
        "<a></a><b></b>",
        "<a/>text",
        "text<a/>",
        "<a/>&#32;",
        "&amp;<a/>",
        "\u{a0}<a/>",
    ] {
        assert_malformed(xml);
    }
}

#[test]
fn tags_that_do_not_match_are_refused() {
    for xml in [
        "<a></b>",
        "<a><b></a></b>",
        "<a><b></a>",
        "</a>",
        "<a/></a>",
        "<a></A>",
        "<p:a xmlns:p='u'></a>",
        "<p:a xmlns:p='u' xmlns:q='u'></q:a>",
        "<a></a b='1'>",
        "<a></ a>",
        "<a/ >",
    ] {
        assert_malformed(xml);
    }
}

#[test]
fn a_truncated_stanza_is_refused() {
    for whole in [include_str!("fixtures/prosody/enable.xml"), include_str!("fixtures/ejabberd/error.xml")] {
        let whole = whole.trim();
        parse(whole);
        for end in 0..whole.len() {
            assert!(Element::parse(&whole[..end]).is_err(), "{}", &whole[..end]);
        }
    }
}

#[test]
fn the_nesting_of_elements_is_limited() {
    let nested = |depth: usize, inner: &str| format!("{}{inner}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    for inner in ["", "text"] {
        parse(&nested(MAX_DEPTH, inner));
        assert_eq!(refusal(&nested(MAX_DEPTH + 1, inner)), ParseError::TooDeep);
    }
    parse(&nested(MAX_DEPTH - 1, "<b/><b/>"));
    assert_eq!(refusal(&nested(MAX_DEPTH, "<b/>")), ParseError::TooDeep);
    assert_eq!(refusal(&"<a>".repeat(80_000)), ParseError::TooDeep);
}

#[test]
fn the_size_of_a_stanza_is_limited() {
    let of_size = |bytes: usize| format!("<a>{}</a>", "x".repeat(bytes - "<a></a>".len()));
    parse(&of_size(MAX_STANZA_BYTES));
    assert_eq!(refusal(&of_size(MAX_STANZA_BYTES + 1)), ParseError::TooLarge(MAX_STANZA_BYTES + 1));
    assert_eq!(MAX_STANZA_BYTES, 256 * 1024);
}

#[test]
fn a_byte_order_mark_and_a_declaration_are_allowed_only_at_the_start() {
    let element = parse("<a/>");
    for xml in [
        "\u{feff}<a/>",
        "<?xml version='1.0'?><a/>",
        "<?xml version='1.0' encoding='UTF-8' standalone='yes'?>\n<a/>",
        "\u{feff}<?xml version=\"1.0\"?>\r\n<a/>\r\n",
    ] {
        assert_eq!(parse(xml), element, "{xml:?}");
    }
    for xml in [
        " <?xml version='1.0'?><a/>",
        "<a/><?xml version='1.0'?>",
        "<a><?xml version='1.0'?></a>",
        "<?xml version='1.0'?><?xml version='1.0'?><a/>",
        "<a/>\u{feff}",
        "<?xml version='1.0'?>\u{feff}<a/>",
    ] {
        assert_malformed(xml);
    }
}

#[test]
fn text_is_the_text_directly_inside_in_its_order() {
    let element = parse("<a>1<b>no</b>2&amp;<c/><![CDATA[3]]></a>");
    assert_eq!(element.text(), "12&3");
    assert_eq!(element.children().map(Element::name).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(parse("<a><b>no</b></a>").text(), "");
}

#[test]
fn a_written_element_has_the_same_namespaces() {
    for xml in [
        "<a xmlns='u'><b xmlns=''><c xmlns='u'/></b></a>",
        "<a xmlns:p='u' xmlns:q='v&amp;&lt;&quot;&apos;' p:b='1' q:b='2' b='3' xml:lang='en'><p:c q:d='4'/></a>",
        "<p:a xmlns='v' xmlns:p='u'><b/><p:c xmlns:p='w' p:d=''/></p:a>",
        "<a xmlns='urn:é'>\u{1f600}<b c='x&#9;y&#10;z&#13;&lt;&quot;'/>]]&gt;&#13;</a>",
    ] {
        let element = parse(xml);
        let written = element.to_string();
        assert_eq!(parse(&written), element, "{xml} as {written}");
    }
}

#[test]
fn an_element_that_would_exceed_a_limit_when_written_is_refused() {
    let namespace = |bytes| format!("<a xmlns='{}'/>", "\"".repeat(bytes));
    assert_eq!(parse(&parse(&namespace(42)).to_string()), parse(&namespace(42)));
    assert_eq!(refusal(&namespace(43)), ParseError::TooWide);

    // The input has one declaration for all attributes; the output has one for each.
    let attributes = |count: usize| (0..count).map(|i| format!(" p:b{i}='1'")).collect::<String>();
    let nested = |inner| {
        let (outer, inner) = (attributes(63), attributes(inner));
        format!("<a xmlns:p='u'{outer}><c/><b xmlns='v'{outer}><d xmlns='w'/><e{inner}/></b></a>")
    };
    assert_eq!(parse(&parse(&nested(1)).to_string()), parse(&nested(1)));
    assert_eq!(refusal(&nested(2)), ParseError::TooWide);
    let beside = format!("<a xmlns:p='u'>{}</a>", format!("<b{}/>", attributes(64)).repeat(9));
    assert_eq!(parse(&parse(&beside).to_string()), parse(&beside));
}

#[test]
fn the_namespaces_of_xml_itself_are_allowed_only_for_attributes() {
    parse("<a xml:lang='en' xmlns:xml='http://www.w3.org/XML/1998/namespace'/>");
    for xml in [
        "<xml:a/>",
        "<a xmlns='http://www.w3.org/XML/1998/namespace'/>",
        "<p:a xmlns:p='http://www.w3.org/XML/1998/namespac&#101;'/>",
        "<xmlns:a/>",
        "<a xmlns='http://www.w3.org/2000/xmlns/'/>",
        "<a xmlns:p='http://www.w3.org/2000/xmlns&#47;' p:b='1'/>",
    ] {
        assert_malformed(xml);
    }
}
