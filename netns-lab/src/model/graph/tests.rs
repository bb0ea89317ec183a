use super::*;
use crate::model::layout::lay_out;
use crate::model::samples;
use crate::model::topology::Topology;

fn graph(lab: &Lab, words: &str) -> Graph {
    let topology = Topology::from_words(words, &lab.name).unwrap().unwrap();
    let pods = lay_out(lab, &topology, None).unwrap();
    // In another order: the graph has its own.
    Graph::of(lab, pods.iter().rev())
}

#[test]
fn one_node_in_each_format() {
    let graph = graph(&samples::lab(), "3-pods");
    for (name, format) in [
        ("text", Format::Text),
        ("mermaid", Format::Mermaid),
        ("dot", Format::Dot),
        ("svg", Format::Svg),
    ] {
        insta::assert_snapshot!(format!("one_{name}"), graph.draw(format));
    }
}

#[test]
fn two_nodes_in_each_format() {
    let graph = graph(&samples::lab_of(2, false, None), "2-nodes-4-pods");
    for (name, format) in [
        ("text", Format::Text),
        ("mermaid", Format::Mermaid),
        ("dot", Format::Dot),
        ("svg", Format::Svg),
    ] {
        insta::assert_snapshot!(format!("two_{name}"), graph.draw(format));
    }
    insta::assert_snapshot!("two_sentences", graph.sentences());
    insta::assert_json_snapshot!(graph);
}

#[test]
fn a_picture_of_many_pods_is_whole_and_needs_nothing_else() {
    let svg = graph(&samples::lab(), "40-pods").draw(Format::Svg);
    assert_eq!(svg.matches(">web-").count(), 40);
    assert!(svg.contains("<title>") && svg.contains("fill=\"#fff\""));
    assert!(!svg.contains("href") && !svg.contains("url("));
    assert_eq!(svg.matches("http").count(), 1, "the name of the format alone");
}

#[test]
fn a_name_from_a_file_means_nothing() {
    assert_eq!(plain("br\"><script>"), "br???script?");
}
